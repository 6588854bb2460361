"""The framing around protobuf and the views of arrays, without a server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from tessera_client import _tensor, _wire
from tessera_client._proto import attention_pb2, tensor_pb2


@pytest.mark.parametrize("sizes", [[], [0], [1, 127, 128, 16384], [300_000]], ids=str)
def test_request_bytes_are_those_of_protobuf(sizes: list[int]) -> None:
    header = attention_pb2.AttendRequest(id="r", q_lens=[1, 2], q=tensor_pb2.Tensor(shape=[3], raw_index=0))
    payloads = [bytes(np.random.default_rng(size).integers(0, 256, size, np.uint8)) for size in sizes]
    encoded = _wire.serialize_request(_wire.EncodedRequest(header, [memoryview(payload) for payload in payloads]))
    whole = attention_pb2.AttendRequest()
    whole.CopyFrom(header)
    whole.raw.extend(payloads)
    assert encoded == whole.SerializeToString()


def test_response_is_split_without_copies() -> None:
    whole = attention_pb2.AttendResponse(id="r", raw=[b"abc", b"", bytes(1000)])
    whole.ledger.achieved_flops_per_s = 2.5
    message = whole.SerializeToString()
    response = _wire.parse_response(message)
    assert [bytes(view) for view in response.raw] == list(whole.raw)
    assert all(view.obj is message for view in response.raw)
    del whole.raw[:]
    assert response.header == whole


def test_malformed_response_is_refused() -> None:
    whole = attention_pb2.AttendResponse(id="request", raw=[bytes(200)]).SerializeToString()
    for size in range(1, len(whole)):
        truncated = whole[:size]
        if size == len(attention_pb2.AttendResponse(id="request").SerializeToString()):
            continue  # a whole message without its payload
        with pytest.raises((ValueError, DecodeError)):
            _wire.parse_response(truncated)
    for garbage in (b"\xff" * 20, b"\x0b", b"\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"):
        with pytest.raises((ValueError, DecodeError)):
            _wire.parse_response(garbage)


BASE = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("array", "strides", "elements"),
    [
        (BASE, [], 120),
        (BASE.swapaxes(1, 2), [60, 5, 20, 1], 120),
        (np.broadcast_to(BASE[0, 0], (2, 3, 4, 5)), [0, 0, 5, 1], 20),
        (np.broadcast_to(BASE[:, :, :, :1], BASE.shape), [], 120),
        (BASE[:, :, ::2], [], 60),
        (BASE[:, :, :, ::-1], [], 120),
        (BASE[::-1], [], 120),
        (BASE[:, :, :, :1], [], 24),
        (BASE[:, :0], [], 0),
        (BASE.transpose(3, 2, 1, 0), [], 120),
    ],
    ids=[
        "contiguous",
        "transposed",
        "broadcast",
        "broadcast_last",
        "sliced",
        "reversed_last",
        "reversed",
        "one_wide",
        "empty",
        "fortran",
    ],
)
def test_views_are_sent_as_they_lie_where_the_wire_can_say_so(array: Any, strides: list[int], elements: int) -> None:
    raw: list[memoryview] = []
    tensor = _tensor.encode(array, raw)
    assert list(tensor.strides) == strides
    assert list(tensor.shape) == list(array.shape)
    flat = np.frombuffer(raw[0], np.float32)
    assert flat.size == elements
    steps = [step * 4 for step in strides] or None
    np.testing.assert_array_equal(np.ndarray(array.shape, np.float32, flat.tobytes() or b"\0", strides=steps), array)


def test_reply_that_describes_its_tensor_wrongly_is_refused() -> None:
    fp32 = tensor_pb2.DATA_TYPE_FP32
    raw = [memoryview(bytes(16))]
    for tensor in (
        tensor_pb2.Tensor(dtype=fp32, shape=[5], raw_index=0),
        tensor_pb2.Tensor(dtype=fp32, shape=[4], raw_index=1),
        tensor_pb2.Tensor(dtype=fp32, shape=[4]),
        tensor_pb2.Tensor(shape=[4], raw_index=0),
        tensor_pb2.Tensor(dtype=fp32, shape=[-1], raw_index=0),
    ):
        with pytest.raises(ValueError, match="reply has a tensor"):
            _tensor.decode(tensor, raw)
