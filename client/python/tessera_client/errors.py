"""Server errors as one exception, with the machine-readable detail that came with them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(eq=False)
class TesseraError(Exception):
    """A request that the server, or the connection to it, refused.

    code: the gRPC status code.
    message: what went wrong, with expected and actual values.
    reason: stable and UPPER_SNAKE_CASE, to branch on; empty when the error did not come from the server itself.
    metadata: "field", "expected", "actual", "limit", ... as the reason has them.
    retry_delay: set where trying again after this time may succeed.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_delay: datetime.timedelta | None = None

    def __str__(self) -> str:
        return f"{self.code.name}: {self.message}" + (f" [{self.reason}]" if self.reason else "")


def from_status(status: status_pb2.Status) -> TesseraError:
    error = TesseraError(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(info):
            error.reason, error.metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(retry):
            error.retry_delay = retry.retry_delay.ToTimedelta()
    return error


def from_rpc_error(rpc_error: grpc.RpcError) -> TesseraError:
    """`rpc_error` as raised by a call or its iterator: those are grpc.Call objects too."""
    assert isinstance(rpc_error, grpc.Call)
    for key, value in rpc_error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            return from_status(status_pb2.Status.FromString(value))
    return TesseraError(rpc_error.code(), rpc_error.details() or "")
