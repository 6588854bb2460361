"""The outer framing of AttendRequest and AttendResponse, so that tensor bytes pass protobuf by.

Both messages end with `repeated bytes raw = 15`. protobuf would copy each entry into the message and again into the
serialized form; here the description is serialized by protobuf and the tensors are appended to it, or sliced out of
it, with the two lines of wire format that this takes. See proto/tessera/v1/attention.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tessera_client._proto import attention_pb2

_RAW_FIELD = 15
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class EncodedRequest:
    """A request's description, without `raw`, and the bytes that belong in it."""

    header: attention_pb2.AttendRequest
    raw: Sequence[memoryview]


@dataclass(frozen=True)
class EncodedResponse:
    """A reply's description, without `raw`, and views of the received bytes."""

    header: attention_pb2.AttendResponse
    raw: Sequence[memoryview]


def serialize_request(request: EncodedRequest) -> bytes:
    """The serialized AttendRequest. Copies each tensor once, into the result."""
    parts: list[bytes | memoryview] = [request.header.SerializeToString()]
    for payload in request.raw:
        parts.append(_encode_varint(_RAW_FIELD << 3 | _LENGTH_DELIMITED) + _encode_varint(payload.nbytes))
        parts.append(payload)
    return b"".join(parts)


def parse_response(message: bytes) -> EncodedResponse:
    """Splits a serialized AttendResponse. The views keep `message` alive; nothing large is copied.

    Raises ValueError (or protobuf's DecodeError) when the message is malformed.
    """
    view = memoryview(message)
    header: list[memoryview] = []
    raw: list[memoryview] = []
    position = 0
    while position < len(view):
        start = position
        key, position = _decode_varint(view, position)
        wire_type = key & 7
        if wire_type == _VARINT:
            _, position = _decode_varint(view, position)
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        elif wire_type == _LENGTH_DELIMITED:
            size, position = _decode_varint(view, position)
            position += size
        else:
            raise ValueError(f"reply has wire type {wire_type} at byte {start}")
        if position > len(view):
            raise ValueError(f"reply is truncated: a field ends at byte {position} of {len(view)}")
        if key == _RAW_FIELD << 3 | _LENGTH_DELIMITED:
            raw.append(view[position - size : position])
        else:
            header.append(view[start:position])
    return EncodedResponse(attention_pb2.AttendResponse.FromString(b"".join(header)), raw)


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _decode_varint(view: memoryview, position: int) -> tuple[int, int]:
    """The value at `position`, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ValueError("reply is truncated inside a varint")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"reply has a varint of more than ten bytes before byte {position}")
