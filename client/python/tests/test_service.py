"""Explain, info, health, and how errors arrive."""

from __future__ import annotations

import dataclasses
from typing import Any

import grpc
import numpy as np
import pytest

import tessera_client
from tessera_client import Client, HealthStatus, TensorSpec, TesseraError, results
from tessera_client._proto import attention_pb2, ledger_pb2


def zeros(*shape: int) -> Any:
    return np.zeros(shape, np.float32)


def test_explain_takes_shapes_alone(client: Client) -> None:
    spec = TensorSpec((1_000, 8, 128), "bf16")
    explanation = client.explain(spec, spec, spec, causal=True, q_lens=[600, 400], backend="cpu_fused")
    assert explanation.choice.backend == "cpu_fused"
    assert explanation.choice.tile_q > 0
    assert explanation.workspace_bytes >= 0
    assert explanation.input_bytes == 3 * 1_000 * 8 * 128 * 2
    assert explanation.output_bytes == 1_000 * 8 * 128 * 2
    assert explanation.traffic.hbm_read > 0
    assert explanation.flops == 4 * 128 * 8 * (600 * 601 // 2 + 400 * 401 // 2)
    assert "causal" in explanation.features


def test_explain_agrees_with_attend(client: Client) -> None:
    q = zeros(40, 2, 16)
    explanation = client.explain(q, q, q, masks=np.ones((40, 40), bool), return_lse=True)
    ledger = client.attend(q, q, q, masks=np.ones((40, 40), bool), return_lse=True).ledger
    assert explanation.choice.kernel == ledger.choice.kernel
    assert (explanation.choice.tile_q, explanation.choice.tile_kv) == (ledger.choice.tile_q, ledger.choice.tile_kv)
    assert explanation.output_bytes == ledger.memory.output


def test_info(client: Client) -> None:
    info = client.info()
    assert info.version
    assert not info.draining
    backends = {backend.name: backend for backend in info.backends}
    assert {"cpu_fused", "cpu_standard"} <= backends.keys()
    assert backends["cpu_fused"].usable
    assert {"fp32", "fp16", "bf16"} <= set(backends["cpu_fused"].input_dtypes)
    assert "causal" in backends["cpu_fused"].features
    assert info.devices[0].compute_units > 0
    assert info.limits.max_message_bytes > 0


def test_health(client: Client) -> None:
    assert client.health() is HealthStatus.SERVING
    with pytest.raises(TesseraError) as caught:
        client.health("no.such.Service")
    assert caught.value.code == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("shapes", "options", "code"),
    [
        (((4, 3, 8), (4, 2, 8), (4, 2, 8)), {}, grpc.StatusCode.INVALID_ARGUMENT),
        (((4, 2, 8), (4, 2, 16), (4, 2, 8)), {}, grpc.StatusCode.INVALID_ARGUMENT),
        (((4, 2, 8), (4, 2, 8), (4, 2, 8)), {"scale": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT),
        (((4, 2, 8), (4, 2, 8), (4, 2, 8)), {"masks": np.ones((3, 4), bool)}, grpc.StatusCode.INVALID_ARGUMENT),
        (((4, 2, 8), (4, 2, 8), (4, 2, 8)), {"backend": "abacus"}, grpc.StatusCode.NOT_FOUND),
        (((4, 2, 8), (4, 2, 8), (4, 2, 8)), {"request_id": "x" * 129}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
    ids=["heads_not_divisible", "head_dim_differs", "nan_scale", "mask_shape", "unknown_backend", "long_id"],
)
def test_refusal(client: Client, shapes: Any, options: Any, code: grpc.StatusCode) -> None:
    with pytest.raises(TesseraError) as caught:
        client.attend(*(zeros(*shape) for shape in shapes), **options)
    error = caught.value
    assert error.code == code
    assert error.message
    assert error.reason == error.reason.upper() != ""
    assert {"expected", "actual"} <= error.metadata.keys()
    assert error.reason in str(error)
    assert error.message in str(error)


def test_deadline(client: Client) -> None:
    q = zeros(4096, 8, 128)
    with pytest.raises(TesseraError) as caught:
        client.attend(q, q, q, timeout=0.001)
    assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_no_server() -> None:
    with pytest.raises(TesseraError, match=r"no server answered at 127.0.0.1:1 within 0.2 s") as caught:
        tessera_client.connect("127.0.0.1:1", timeout=0.2)
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layout": "bsdh"}, ValueError, "layout: expected one of packed, bshd, bhsd, got 'bsdh'"),
        ({"alignment": "left"}, ValueError, "alignment: expected one of bottom_right, top_left, got 'left'"),
        ({"output_dtype": "float64"}, TypeError, "expected one of fp32, .*, got float64"),
        ({"masks": np.zeros((4, 4), np.int32)}, TypeError, "got int32"),
        ({"casual": True}, TypeError, "unknown option: casual"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_the_wire_cannot_say(client: Client, options: Any, error: type[Exception], message: str) -> None:
    q = zeros(4, 2, 8)
    with pytest.raises(error, match=message):
        client.attend(q, q, q, **options)


def test_attend_needs_data(client: Client) -> None:
    spec: Any = TensorSpec((4, 2, 8), "fp32")
    with pytest.raises(TypeError, match="expected a numpy array, got TensorSpec"):
        client.attend(spec, spec, spec)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (results.Ledger, ledger_pb2.Ledger),
        (results.MemoryLedger, ledger_pb2.MemoryLedger),
        (results.TrafficLedger, ledger_pb2.TrafficLedger),
        (results.Choice, ledger_pb2.Choice),
        (results.TimeLedger, ledger_pb2.TimeLedger),
        (results.Explanation, attention_pb2.ExplainResponse),
        (results.ServerInfo, attention_pb2.GetServerInfoResponse),
        (results.BackendDescription, attention_pb2.BackendDescription),
        (results.DeviceDescription, attention_pb2.DeviceDescription),
        (results.Limits, attention_pb2.Limits),
    ],
    ids=lambda value: value.__name__,
)
def test_dataclasses_have_the_fields_of_their_messages(cls: Any, message: Any) -> None:
    assert [field.name for field in dataclasses.fields(cls)] == [field.name for field in message.DESCRIPTOR.fields]
