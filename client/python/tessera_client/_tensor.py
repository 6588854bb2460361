"""numpy arrays as wire tensors: element types, and the bytes of arrays that are not contiguous."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from tessera_client._proto import tensor_pb2

Array: TypeAlias = NDArray[Any]

# Name, wire code and numpy type of each element type.
_DTYPES: tuple[tuple[str, tensor_pb2.DataType, np.dtype[Any]], ...] = (
    ("fp32", tensor_pb2.DATA_TYPE_FP32, np.dtype(np.float32)),
    ("fp16", tensor_pb2.DATA_TYPE_FP16, np.dtype(np.float16)),
    ("bf16", tensor_pb2.DATA_TYPE_BF16, np.dtype(ml_dtypes.bfloat16)),
    ("fp8_e4m3", tensor_pb2.DATA_TYPE_FP8_E4M3, np.dtype(ml_dtypes.float8_e4m3fn)),
    ("bool", tensor_pb2.DATA_TYPE_BOOL, np.dtype(np.bool_)),
)
_CODE_OF_NAME = {name: code for name, code, _ in _DTYPES}
_CODE_OF_DTYPE = {dtype: code for _, code, dtype in _DTYPES}
_DTYPE_OF_CODE = {int(code): dtype for _, code, dtype in _DTYPES}
_NAME_OF_CODE = {int(code): name for name, code, _ in _DTYPES}


@dataclass(frozen=True)
class TensorSpec:
    """The shape and element type of a tensor, for `explain`, which needs no data.

    dtype is a numpy dtype or one of "fp32", "fp16", "bf16", "fp8_e4m3", "bool".
    """

    shape: Sequence[int]
    dtype: DTypeLike | str


def dtype_code(dtype: DTypeLike | str) -> tensor_pb2.DataType:
    """The wire code of a numpy dtype or a name. Raises TypeError for a type that the wire does not have."""
    if isinstance(dtype, str) and dtype in _CODE_OF_NAME:
        return _CODE_OF_NAME[dtype]
    numpy_dtype = np.dtype(dtype)
    code = _CODE_OF_DTYPE.get(numpy_dtype.newbyteorder("="))
    if code is None:
        raise TypeError(f"element type: expected one of {', '.join(_CODE_OF_NAME)}, got {numpy_dtype}")
    return code


def dtype_name(code: int) -> str:
    return _NAME_OF_CODE.get(code, f"unknown({code})")


def encode(tensor: Array | TensorSpec, raw: list[memoryview] | None) -> tensor_pb2.Tensor:
    """Describes `tensor` and appends its bytes to `raw`; with `raw` None the description alone."""
    if raw is None:
        return tensor_pb2.Tensor(dtype=dtype_code(tensor.dtype), shape=tensor.shape)
    if not isinstance(tensor, np.ndarray):
        raise TypeError(f"expected a numpy array, got {type(tensor).__name__}")
    code = dtype_code(tensor.dtype)
    native = tensor.astype(tensor.dtype.newbyteorder("="), copy=False)
    strides, flat = _flatten(native)
    raw.append(flat.view(np.uint8).data)
    return tensor_pb2.Tensor(dtype=code, shape=tensor.shape, strides=strides, raw_index=len(raw) - 1)


def decode(tensor: tensor_pb2.Tensor, raw: Sequence[memoryview]) -> Array:
    """A new, writable array with the elements of `tensor`. Raises ValueError when the description does not fit."""
    dtype = _DTYPE_OF_CODE.get(tensor.dtype)
    if dtype is None:
        raise ValueError(f"reply has a tensor of unknown element type {tensor.dtype}")
    if tensor.WhichOneof("data") != "raw_index" or tensor.raw_index >= len(raw) or tensor.strides:
        raise ValueError("reply has a tensor that is not a contiguous block of its raw bytes")
    payload = raw[tensor.raw_index]
    shape = tuple(tensor.shape)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != payload.nbytes:
        raise ValueError(f"reply has a tensor of shape {shape} and type {dtype} in {payload.nbytes} bytes")
    # One copy, to memory that is aligned and the caller's own.
    return np.frombuffer(payload, dtype=dtype).reshape(shape).copy()


def _flatten(array: Array) -> tuple[list[int], Array]:
    """Strides for the wire (none: row-major) and the elements they reach, as one contiguous dimension.

    An array whose memory the wire can express, with no more bytes than it has elements, is sent as it lies: a
    transposed view, or a broadcast mask. Anything else is copied to row-major order.
    """
    if array.size == 0 or array.flags.c_contiguous:
        return [], array.reshape(-1)
    strides = [step // array.itemsize for step in array.strides]
    # numpy may hold anything as the stride of a dimension of one entry.
    strides = [0 if size == 1 else step for size, step in zip(array.shape, strides, strict=True)]
    if array.shape[-1] == 1:
        strides[-1] = 1
    whole = all(step % array.itemsize == 0 for step in array.strides)
    span = 1 + sum((size - 1) * step for size, step in zip(array.shape, strides, strict=True))
    if whole and strides[-1] == 1 and min(strides) >= 0 and span <= array.size:
        return strides, np.lib.stride_tricks.as_strided(array, (span,), (array.itemsize,), writeable=False)
    return [], np.ascontiguousarray(array).reshape(-1)
