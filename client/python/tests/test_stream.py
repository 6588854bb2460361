"""AttendStream: order, ids, errors in the middle, and both ends giving up early."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from reference import assert_close, attention
from tessera_client import AttentionRequest, Client, TesseraError


def make_request(rng: np.random.Generator, tokens: int, request_id: str = "") -> AttentionRequest:
    q, k, v = (rng.standard_normal((tokens, 2, 16)).astype(np.float32) for _ in range(3))
    return AttentionRequest(q, k, v, causal=True, request_id=request_id)


def test_every_request_is_answered(client: Client, rng: np.random.Generator) -> None:
    requests = {str(i): make_request(rng, tokens) for i, tokens in enumerate([5, 300, 1, 64, 17, 128])}
    replies = {reply.request_id: reply.unwrap() for reply in client.attend_stream(requests.values())}
    assert replies.keys() == requests.keys()
    for request_id, request in requests.items():
        expected, _ = attention(request.q, request.k, request.v, causal=True)
        assert_close(replies[request_id].output, expected)
        assert replies[request_id].ledger.memory.output == replies[request_id].output.nbytes


def test_failed_request_leaves_the_stream_alive(client: Client, rng: np.random.Generator) -> None:
    bad = make_request(rng, 4, "bad")
    bad.k = bad.k[:, :, :8]
    requests = [make_request(rng, 4, "before"), bad, make_request(rng, 4, "after")]
    replies = {reply.request_id: reply for reply in client.attend_stream(requests)}
    assert replies.keys() == {"before", "bad", "after"}
    assert replies["before"].result is not None
    assert replies["after"].result is not None
    with pytest.raises(TesseraError) as caught:
        replies["bad"].unwrap()
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.reason
    assert {"expected", "actual"} <= caught.value.metadata.keys()


def test_empty_stream(client: Client) -> None:
    assert list(client.attend_stream([])) == []


def test_exception_of_the_source_reaches_the_caller(client: Client, rng: np.random.Generator) -> None:
    def source() -> Iterator[AttentionRequest]:
        yield make_request(rng, 4)
        raise LookupError("no more prompts")

    with pytest.raises(LookupError, match="no more prompts"):
        list(client.attend_stream(source()))


def test_leaving_early_cancels(client: Client, rng: np.random.Generator) -> None:
    request = make_request(rng, 4)
    replies = client.attend_stream(request for _ in itertools.count())
    assert next(replies).result is not None
    replies.close()  # type: ignore[attr-defined]
    assert client.attend(request.q, request.k, request.v).output.shape == request.q.shape
