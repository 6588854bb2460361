"""Client of Tessera, the exact-attention server.

>>> with tessera_client.connect("127.0.0.1:50051") as client:
...     result = client.attend(q, k, v, causal=True)
...     print(result.output.shape, result.ledger.memory.workspace_peak)
"""

from tessera_client._request import Alignment, AttentionRequest, Layout, RequestOptions
from tessera_client._tensor import TensorSpec
from tessera_client.client import Client, connect
from tessera_client.errors import TesseraError
from tessera_client.results import (
    AttendResult,
    BackendDescription,
    Choice,
    DeviceDescription,
    Explanation,
    HealthStatus,
    Ledger,
    Limits,
    MemoryLedger,
    ServerInfo,
    StreamReply,
    TimeLedger,
    TrafficLedger,
)

__all__ = [
    "Alignment",
    "AttendResult",
    "AttentionRequest",
    "BackendDescription",
    "Choice",
    "Client",
    "DeviceDescription",
    "Explanation",
    "HealthStatus",
    "Layout",
    "Ledger",
    "Limits",
    "MemoryLedger",
    "RequestOptions",
    "ServerInfo",
    "StreamReply",
    "TensorSpec",
    "TesseraError",
    "TimeLedger",
    "TrafficLedger",
    "connect",
]
