"""The connection to a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
from grpc_health.v1 import health_pb2

from tessera_client import _decode, _request, _wire, errors
from tessera_client._proto import attention_pb2
from tessera_client._request import AttentionRequest, RequestOptions
from tessera_client._tensor import Array, TensorSpec
from tessera_client._wire import EncodedRequest
from tessera_client.errors import TesseraError
from tessera_client.results import AttendResult, Explanation, HealthStatus, ServerInfo, StreamReply

_SERVICE = "/tessera.v1.AttentionService/"
_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


def connect(address: str, *, timeout: float | None = 10.0) -> Client:
    """Connects to "host:port" or "unix:/path" and waits until the server answers.

    Raises TesseraError UNAVAILABLE when it does not within `timeout` seconds (None: waits forever).
    """
    channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
    try:
        grpc.channel_ready_future(channel).result(timeout)
    except grpc.FutureTimeoutError:
        channel.close()
        raise TesseraError(grpc.StatusCode.UNAVAILABLE, f"no server answered at {address} within {timeout} s") from None
    return Client(channel)


class Client:
    """A connection; may be used from several threads. Close it, or use it as a context manager.

    Every call takes `timeout` in seconds (None: no deadline) and raises TesseraError when the server refuses it.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        """Takes over `channel`: most callers use `connect` instead."""
        self._channel = channel
        # The tensor-carrying methods have serializers of their own, which generated stubs would not use.
        self._attend = channel.unary_unary(_SERVICE + "Attend", _wire.serialize_request, _wire.parse_response)
        self._attend_stream = channel.stream_stream(
            _SERVICE + "AttendStream", _wire.serialize_request, _wire.parse_response
        )
        self._explain = channel.unary_unary(
            _SERVICE + "Explain",
            attention_pb2.ExplainRequest.SerializeToString,
            attention_pb2.ExplainResponse.FromString,
        )
        self._info = channel.unary_unary(
            _SERVICE + "GetServerInfo",
            attention_pb2.GetServerInfoRequest.SerializeToString,
            attention_pb2.GetServerInfoResponse.FromString,
        )
        self._health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def attend(
        self, q: Array, k: Array, v: Array, *, timeout: float | None = None, **options: Unpack[RequestOptions]
    ) -> AttendResult:
        """Attention over one batch of sequences.

        q is (tokens, q_heads, head_dim), or of rank 4 with a padded layout; k and v likewise with kv_heads, of which
        q_heads is a multiple; v may have another head_dim. All three are fp32, fp16, bf16
        (ml_dtypes.bfloat16) or fp8 (ml_dtypes.float8_e4m3fn, with scales), and need not be contiguous. `RequestOptions` documents the options.
        """
        request = _request.encode(q, k, v, options, with_data=True)
        return _decode.attend_result(_call(self._attend, request, timeout))

    def attend_stream(
        self, requests: Iterable[AttentionRequest], *, timeout: float | None = None
    ) -> Iterator[StreamReply]:
        """Many requests in flight on one stream; replies come as they are ready, maybe out of order.

        A request without an id gets its position in `requests` ("0", "1", ...). A request that fails is answered
        with its error, and the stream goes on. `requests` is iterated in another thread, ahead of the replies; an
        exception that it raises ends the stream and is raised here. Leaving the iterator early cancels the rest.
        `timeout` is for the whole stream.
        """
        source = _StreamSource(requests)
        call = self._attend_stream(source, timeout=timeout)
        try:
            for response in call:
                yield _decode.stream_reply(response)
        except grpc.RpcError as rpc_error:
            if source.error is not None:
                raise source.error from None
            raise errors.from_rpc_error(rpc_error) from None
        finally:
            call.cancel()

    def explain(
        self,
        q: Array | TensorSpec,
        k: Array | TensorSpec,
        v: Array | TensorSpec,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Explanation:
        """What `attend` would do with these tensors, of which only shapes and dtypes are sent; nothing runs."""
        request = _request.encode(q, k, v, options, with_data=False)
        message = attention_pb2.ExplainRequest(request=request.header)
        return _decode.explanation(_call(self._explain, message, timeout))

    def info(self, *, timeout: float | None = None) -> ServerInfo:
        """Version, backends and their capabilities, devices, limits."""
        return _decode.server_info(_call(self._info, attention_pb2.GetServerInfoRequest(), timeout))

    def health(self, service: str = "", *, timeout: float | None = None) -> HealthStatus:
        """Health of the server, or of one service by its full name (TesseraError NOT_FOUND if there is none)."""
        reply = _call(self._health, health_pb2.HealthCheckRequest(service=service), timeout)
        return HealthStatus(reply.status)


def _call(method: Any, request: Any, timeout: float | None) -> Any:
    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as rpc_error:
        raise errors.from_rpc_error(rpc_error) from None


class _StreamSource:
    """Encodes the requests of a stream in gRPC's sending thread and keeps the exception that ended it, if any."""

    def __init__(self, requests: Iterable[AttentionRequest]) -> None:
        self._requests = enumerate(requests)
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[EncodedRequest]:
        return self

    def __next__(self) -> EncodedRequest:
        try:
            position, request = next(self._requests)
            encoded = _request.encode(request.q, request.k, request.v, request.options, with_data=True)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise
        if not encoded.header.id:
            encoded.header.id = str(position)
        return encoded
