"""A real server for the tests: the program named by TESSERA_SERVER_BINARY, on a free loopback port."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

import tessera_client

_READY = "listening on "


@pytest.fixture(scope="session")
def server_address() -> Iterator[str]:
    binary = os.environ.get("TESSERA_SERVER_BINARY")
    if not binary:
        pytest.fail("set TESSERA_SERVER_BINARY to the tessera-server program (tests/run.sh does)")
    with subprocess.Popen([binary, "--listen=127.0.0.1:0"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if _READY in line:
                    yield line.split(_READY, 1)[1].split()[0]
                    break
            else:
                pytest.fail(f"{binary} ended with status {server.wait()} before it listened")
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0, "the server did not stop cleanly on SIGTERM"
        finally:
            server.kill()


@pytest.fixture(scope="session")
def client(server_address: str) -> Iterator[tessera_client.Client]:
    with tessera_client.connect(server_address) as connected:
        yield connected


@pytest.fixture
def rng() -> np.random.Generator:
    """Random inputs; the seed is printed with a failure, and TESSERA_TEST_SEED brings a run back."""
    seed = int(os.environ.get("TESSERA_TEST_SEED") or secrets.randbits(32))
    print(f"TESSERA_TEST_SEED={seed}")
    return np.random.default_rng(seed)
