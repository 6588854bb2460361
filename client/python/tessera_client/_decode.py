"""Replies of the server as the dataclasses of `results`."""

from __future__ import annotations

from tessera_client import _tensor, errors
from tessera_client._proto import attention_pb2, ledger_pb2
from tessera_client._wire import EncodedResponse
from tessera_client.results import (
    AttendResult,
    BackendDescription,
    Choice,
    DeviceDescription,
    Explanation,
    Ledger,
    Limits,
    MemoryLedger,
    ServerInfo,
    StreamReply,
    TimeLedger,
    TrafficLedger,
    from_message,
)


def attend_result(response: EncodedResponse) -> AttendResult:
    """Raises ValueError when the reply lacks an output or describes it wrongly."""
    arrays = {output.kind: _tensor.decode(output.tensor, response.raw) for output in response.header.outputs}
    if attention_pb2.OUTPUT_KIND_OUTPUT not in arrays:
        raise ValueError("reply has no attention output")
    return AttendResult(
        request_id=response.header.id,
        output=arrays[attention_pb2.OUTPUT_KIND_OUTPUT],
        lse=arrays.get(attention_pb2.OUTPUT_KIND_LSE),
        ledger=ledger(response.header.ledger),
    )


def stream_reply(response: EncodedResponse) -> StreamReply:
    header = response.header
    if header.HasField("status") and header.status.code != 0:
        return StreamReply(header.id, None, errors.from_status(header.status))
    return StreamReply(header.id, attend_result(response), None)


def ledger(message: ledger_pb2.Ledger) -> Ledger:
    return from_message(
        Ledger,
        message,
        memory=from_message(MemoryLedger, message.memory),
        traffic=from_message(TrafficLedger, message.traffic),
        choice=from_message(Choice, message.choice),
        time=from_message(TimeLedger, message.time),
    )


def explanation(message: attention_pb2.ExplainResponse) -> Explanation:
    return from_message(
        Explanation,
        message,
        choice=from_message(Choice, message.choice),
        traffic=from_message(TrafficLedger, message.traffic),
        features=tuple(message.features),
        refusals={refusal.backend: refusal.reason for refusal in message.refusals},
    )


def server_info(message: attention_pb2.GetServerInfoResponse) -> ServerInfo:
    return from_message(
        ServerInfo,
        message,
        backends=tuple(_backend(backend) for backend in message.backends),
        devices=tuple(from_message(DeviceDescription, device) for device in message.devices),
        limits=from_message(Limits, message.limits),
    )


def _backend(message: attention_pb2.BackendDescription) -> BackendDescription:
    return from_message(
        BackendDescription,
        message,
        input_dtypes=tuple(_tensor.dtype_name(code) for code in message.input_dtypes),
        output_dtypes=tuple(_tensor.dtype_name(code) for code in message.output_dtypes),
        features=tuple(message.features),
    )
