"""AttendRequest from numpy arrays and keyword options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypedDict, TypeVar, Unpack

import numpy as np
from numpy.typing import DTypeLike

from tessera_client import _tensor
from tessera_client._proto import attention_pb2
from tessera_client._tensor import Array, TensorSpec
from tessera_client._wire import EncodedRequest

Layout: TypeAlias = Literal["packed", "bshd", "bhsd"]
Alignment: TypeAlias = Literal["bottom_right", "top_left"]
Floats: TypeAlias = Sequence[float] | Array
Ints: TypeAlias = Sequence[int] | Array
T = TypeVar("T")

_LAYOUTS: dict[str, attention_pb2.Layout] = {
    "packed": attention_pb2.LAYOUT_PACKED,
    "bshd": attention_pb2.LAYOUT_BSHD,
    "bhsd": attention_pb2.LAYOUT_BHSD,
}
_ALIGNMENTS: dict[str, attention_pb2.Alignment] = {
    "bottom_right": attention_pb2.ALIGNMENT_BOTTOM_RIGHT,
    "top_left": attention_pb2.ALIGNMENT_TOP_LEFT,
}


class RequestOptions(TypedDict, total=False):
    """What a request says beyond q, k and v; each may be left out.

    The mathematics, and what each combination means, is in proto/tessera/v1/attention.proto.
    """

    layout: Layout
    """"packed" (tokens, heads, dim): the default for rank 3. Padded "bshd" (batch, tokens, heads, dim): the default
    for rank 4. Padded "bhsd" (batch, heads, tokens, dim)."""
    q_lens: Ints | None
    """Packed: query tokens of each sequence. Padded: leading query tokens that count in each batch row."""
    kv_lens: Ints | None
    """The same for keys. Packed, left out: q_lens."""
    scale: float | None
    """Left out: 1 / sqrt(head_dim of q)."""
    causal: bool
    alignment: Alignment
    """Where query 0 lies when q and kv lengths differ; left out: "bottom_right", the last query sees the last key."""
    window_left: int | None
    """Keys visible left of the diagonal; left out: all. A Hugging Face sliding window W is W - 1, with causal."""
    window_right: int | None
    softcap: float
    """Scores become softcap * tanh(score / softcap); 0: off."""
    alibi_slopes: Floats | None
    """One slope per query head."""
    sinks: Floats | None
    """One logit per query head that only joins the softmax's denominator."""
    q_scales: Floats | None
    """Of fp8 inputs (ml_dtypes.float8_e4m3fn): what q's elements are multiplied by. One, one per head, or an entry for
    each (sequence, head). Left out: 1."""
    k_scales: Floats | None
    v_scales: Floats | None
    masks: Array | TensorSpec | Sequence[Array | TensorSpec] | None
    """Boolean (True attends) or additive; one that broadcasts to (batch, heads, q, kv), or to (heads, q, kv) when
    packed, or, packed only, one per sequence."""
    diagonal_offsets: Ints | None
    """Per sequence, the key position on query 0's diagonal; overrides alignment."""
    backend: str
    """A name from `Client.info`; left out: the best that supports the request."""
    output_dtype: DTypeLike | str | None
    """numpy dtype, or "fp32", "fp16", "bf16"; left out: that of q, "bf16" for fp8."""
    return_lse: bool
    """Also return the log-sum-exp of each query row and head, fp32."""
    request_id: str
    """Echoed in the result and in the server's log; at most 128 bytes."""


class AttentionRequest:
    """One attention problem, for `Client.attend_stream`: q, k, v and the options of `RequestOptions`."""

    def __init__(self, q: Array, k: Array, v: Array, **options: Unpack[RequestOptions]) -> None:
        self.q, self.k, self.v = q, k, v
        self.options = options


def encode(
    q: Array | TensorSpec, k: Array | TensorSpec, v: Array | TensorSpec, options: RequestOptions, *, with_data: bool
) -> EncodedRequest:
    """The request in wire form; `with_data` False describes the tensors only.

    Raises TypeError or ValueError for what the wire cannot say. Whether the problem makes sense,
    the server judges.
    """
    unknown = options.keys() - RequestOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown option: {', '.join(sorted(unknown))}")
    raw: list[memoryview] | None = [] if with_data else None
    masks = options.get("masks")
    if masks is None:
        masks = ()
    elif isinstance(masks, np.ndarray | TensorSpec):
        masks = (masks,)
    header = attention_pb2.AttendRequest(
        id=options.get("request_id", ""),
        backend=options.get("backend", ""),
        layout=_choice("layout", options.get("layout", "packed" if len(q.shape) == 3 else "bshd"), _LAYOUTS),
        q=_tensor.encode(q, raw),
        k=_tensor.encode(k, raw),
        v=_tensor.encode(v, raw),
        q_lens=_ints(options.get("q_lens")),
        kv_lens=_ints(options.get("kv_lens")),
        q_scales=_floats(options.get("q_scales")),
        k_scales=_floats(options.get("k_scales")),
        v_scales=_floats(options.get("v_scales")),
        options=_attention_options(options),
        masks=[_tensor.encode(mask, raw) for mask in masks],
        outputs=_outputs(options),
    )
    return EncodedRequest(header, raw or [])


def _attention_options(options: RequestOptions) -> attention_pb2.AttentionOptions:
    return attention_pb2.AttentionOptions(
        scale=options.get("scale"),
        causal=options.get("causal", False),
        alignment=_choice("alignment", options.get("alignment", "bottom_right"), _ALIGNMENTS),
        window_left=options.get("window_left"),
        window_right=options.get("window_right"),
        softcap=options.get("softcap", 0.0),
        alibi_slopes=_floats(options.get("alibi_slopes")),
        sinks=_floats(options.get("sinks")),
        diagonal_offsets=_ints(options.get("diagonal_offsets")),
    )


def _outputs(options: RequestOptions) -> list[attention_pb2.RequestedOutput]:
    dtype = options.get("output_dtype")
    code = None if dtype is None else _tensor.dtype_code(dtype)
    outputs = [attention_pb2.RequestedOutput(kind=attention_pb2.OUTPUT_KIND_OUTPUT, dtype=code)]
    if options.get("return_lse", False):
        outputs.append(attention_pb2.RequestedOutput(kind=attention_pb2.OUTPUT_KIND_LSE))
    return outputs


def _choice(name: str, value: str, choices: dict[str, T]) -> T:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return choices[value]


def _ints(values: Ints | None) -> list[int]:
    return [] if values is None else [int(value) for value in values]


def _floats(values: Floats | None) -> list[float]:
    return [] if values is None else [float(value) for value in np.ravel(values)]
