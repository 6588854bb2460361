"""What the server answers, as frozen dataclasses. Their fields are those of proto/tessera/v1/*.proto."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from tessera_client._tensor import Array

if TYPE_CHECKING:
    from tessera_client.errors import TesseraError


@dataclass(frozen=True)
class MemoryLedger:
    """Measured: bytes, and counts of copies, as read from the server's allocators and copy sites."""

    input: int
    output: int
    kv_cache_resident: int
    workspace_peak: int
    staging_peak: int
    device_peak: int
    host_copies_in: int
    host_copies_in_bytes: int
    host_copies_out: int
    host_copies_out_bytes: int
    transfers_to_device: int
    transfers_to_device_bytes: int
    transfers_from_device: int
    transfers_from_device_bytes: int


@dataclass(frozen=True)
class TrafficLedger:
    """Modelled: bytes moved to and from device memory, and what materialising the N x N scores would have taken."""

    hbm_read: int
    hbm_write: int
    standard_workspace: int
    standard_hbm_bytes: int
    workspace_ratio: float
    hbm_ratio: float


@dataclass(frozen=True)
class Choice:
    """Where and how the request ran, or would run."""

    backend: str
    device: str
    kernel: str
    tile_q: int
    tile_kv: int
    stages: int
    num_splits: int
    fast_memory_bytes: int
    launches: int
    batch_requests: int
    batch_sequences: int


@dataclass(frozen=True)
class TimeLedger:
    """Measured, microseconds."""

    queue: float
    transfer_in: float
    compute: float
    transfer_out: float
    total: float


@dataclass(frozen=True)
class Ledger:
    """What one request cost."""

    memory: MemoryLedger
    traffic: TrafficLedger
    choice: Choice
    time: TimeLedger
    flops: int
    achieved_flops_per_s: float


@dataclass(frozen=True, eq=False)
class AttendResult:
    """One answered request. The arrays are new and writable."""

    request_id: str
    output: Array
    """The layout of q with v's head_dim."""
    lse: Array | None
    """fp32, q's shape without its last dimension; None unless `return_lse` was set."""
    ledger: Ledger


@dataclass(frozen=True, eq=False)
class StreamReply:
    """The answer to one request of a stream: a result, or the error that this one request met."""

    request_id: str
    result: AttendResult | None
    error: TesseraError | None

    def unwrap(self) -> AttendResult:
        """The result; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


@dataclass(frozen=True)
class Explanation:
    """What `attend` would do with a request, and what it would cost."""

    choice: Choice
    workspace_bytes: int
    input_bytes: int
    output_bytes: int
    traffic: TrafficLedger
    flops: int
    features: tuple[str, ...]
    refusals: Mapping[str, str]
    """Every backend that would refuse the request, and why."""


@dataclass(frozen=True)
class BackendDescription:
    name: str
    description: str
    device: str
    usable: bool
    unusable_reason: str
    input_dtypes: tuple[str, ...]
    output_dtypes: tuple[str, ...]
    max_head_dim: int
    head_dim_multiple: int
    features: tuple[str, ...]
    auto_priority: int


@dataclass(frozen=True)
class DeviceDescription:
    id: str
    name: str
    compute_units: int
    total_memory_bytes: int
    free_memory_bytes: int
    fast_memory_bytes: int
    l2_bytes: int


@dataclass(frozen=True)
class Limits:
    max_message_bytes: int
    max_batch_tokens: int
    max_workspace_bytes: int
    max_concurrent_requests: int


@dataclass(frozen=True)
class ServerInfo:
    version: str
    commit: str
    backends: tuple[BackendDescription, ...]
    devices: tuple[DeviceDescription, ...]
    limits: Limits
    draining: bool


class HealthStatus(enum.Enum):
    """grpc.health.v1: whether the server takes requests."""

    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


_D = TypeVar("_D")


def from_message(cls: type[_D], message: Message, **converted: object) -> _D:
    """The dataclass `cls` with the equally named fields of `message`; `converted` gives those of another type."""
    names = (field.name for field in fields(cls))  # type: ignore[arg-type]
    return cls(**{name: converted[name] if name in converted else getattr(message, name) for name in names})
