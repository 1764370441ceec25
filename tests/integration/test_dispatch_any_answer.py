"""Whatever an endpoint answers may cost its own row, never a neighbour's: flush, shard, memory."""

import asyncio
import base64
import gzip
import json
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from routoo.client.endpoints import ChatEndpoints
from routoo.client.http import HttpClient
from routoo.domain.completion import Attempt, Completion, Reservation, Result, Usage
from routoo.domain.endpoint import Endpoint
from routoo.domain.job import SLA, ResultStatus
from routoo.domain.pool import Pool
from routoo.errors import InvalidResponseError, StoreError
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.store.database import Database
from tests.dispatch_factory import dispatch, pool_of, prepare, rows
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

ALONE = SLA(allowed_models=("small",))
FINE = "SELECT count(*) FROM results WHERE status = 'succeeded' AND job_no <> 0"
FIRST = "SELECT status, error_code, error_message FROM results WHERE job_no = 0"


def answer(**fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"content": "4"}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    return {"choices": [choice], "usage": usage, **fields}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def sent(body: Any, **fields: Any) -> dict[str, Any]:
    """Return a fault that answers the first job with a body: JSON, or bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    encoded = base64.b64encode(raw).decode()
    return {"kind": "reply", "status": 200, "base64": encoded, "containing": " 0?", **fields}


def patient_pool(server: FakeServer) -> Pool:
    """Return a pool whose endpoints may take their time, as they do where tests share a machine."""
    endpoint = Endpoint(base_url=server.base_url, max_concurrency=64, timeout_s=60)
    models = pool_of(server).models
    return Pool(models=tuple(one.model_copy(update={"endpoint": endpoint}) for one in models))


async def dispatched(db: Database, faults: Sequence[Mapping[str, Any]], count: int = 4) -> None:
    async with FakeServer({"models": {"*": {"faults": list(faults)}}}) as server:
        lease = await prepare(db, patient_pool(server), count, sla=ALONE)
        assert await dispatch(db, lease, max_attempts_per_model=1)


POISON = {
    "a count of 32 bits": answer(usage={"prompt_tokens": 4294967295, "completion_tokens": 1}),
    "a count of 9e18": answer(usage={"prompt_tokens": 9 * 10**18, "completion_tokens": 1}),
    "a negative count": answer(usage={"prompt_tokens": -1, "completion_tokens": 1}),
    "a count in words": answer(usage={"prompt_tokens": "three", "completion_tokens": 1}),
    "a field 300 deep": answer(extra=nested(300)),
    "a field 5000 deep": b'{"x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "no JSON": b"\x00\xff<html>",
}


@pytest.mark.parametrize("body", POISON.values(), ids=POISON)
async def test_one_odd_value_fails_its_own_row_with_a_reason(db: Database, body: Any) -> None:
    await dispatched(db, [sent(body)])
    assert await rows(db, FINE) == [(3,)]
    ((status, code, message),) = await rows(db, FIRST)
    assert (status, code) == ("failed", "invalid_response")
    assert "the answer" in message


READ = {
    "no numbers": (b'{"choices": [{"message": {"content": "4"}, "x": [-Infinity, NaN]}]}', "4"),
    "half a surrogate": (rb'{"choices": [{"message": {"content": "4 \ud83d"}}]}', "4 �"),
    "a mark": (b'\xef\xbb\xbf{"choices": [{"message": {"content": "4"}}]}', "4"),
    "no UTF-8": (b'{"choices": [{"message": {"content": "caf\xe9"}}]}', "caf�"),
    "a NUL": (rb'{"choices": [{"message": {"content": "4\u0000"}}], "x": "\u0000"}', "4�"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "text"), READ.values(), ids=READ)
async def test_an_answer_that_strict_json_refuses_is_read(
    db: Database, body: bytes, text: str
) -> None:
    await dispatched(db, [sent(body)])
    assert await rows(db, "SELECT status, answer FROM results WHERE job_no = 0") == [
        ("succeeded", text)
    ]


LARGE = {
    "100 MB": sent(b"x" * 2**20, repeat=100),
    "a bomb": sent(
        gzip.compress(b" " * 2**26) + b"", headers={"Content-Encoding": "gzip"}, repeat=1
    ),
    "a header": sent(b"{}", headers={"X-Long": "x" * 2**20}),
}


@pytest.mark.parametrize("fault", LARGE.values(), ids=LARGE)
async def test_what_is_too_large_fails_its_own_row_and_is_not_kept(
    db: Database, fault: Mapping[str, Any]
) -> None:
    await dispatched(db, [fault])
    assert await rows(db, FINE) == [(3,)]
    assert (await rows(db, FIRST))[0][:2] == ("failed", "invalid_response")


async def test_many_large_answers_at_once_take_bounded_memory() -> None:
    most = 2**22
    fault = {**sent(b"x" * 2**16, repeat=2**10), "containing": None}
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        model = patient_pool(server).models[0]
        async with ChatEndpoints([model], http=HttpClient(max_bytes=most)) as client:

            async def call() -> int:
                with pytest.raises(InvalidResponseError, match="larger than"):
                    await client.complete(model, {"messages": []})
                return tracemalloc.get_traced_memory()[0]

            tracemalloc.start()
            try:
                held = await asyncio.gather(*(call() for _ in range(64)))
            finally:
                tracemalloc.stop()
    assert max(held) < 40 * most  # of 64 calls; the server, which is measured too, holds some


async def note_gaps(gaps_s: list[float]) -> None:
    """Note how long the event loop is away at each turn, in seconds."""
    before_s = time.perf_counter()
    while True:
        await asyncio.sleep(0)
        now_s = time.perf_counter()
        gaps_s.append(now_s - before_s)
        before_s = now_s


async def test_bombs_leave_the_event_loop_to_others() -> None:
    bomb = gzip.compress(bytes(2**26))  # 65 KB, which one read of the socket brings
    fault = {**sent(bomb, headers={"Content-Encoding": "gzip"}), "containing": None}
    gaps_s: list[float] = []
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        model = patient_pool(server).models[0]
        async with ChatEndpoints([model]) as client:
            watching = asyncio.create_task(note_gaps(gaps_s))
            calls = [client.complete(model, {"messages": []}) for _ in range(16)]
            ended = await asyncio.gather(*calls, return_exceptions=True)
            watching.cancel()
    assert all(isinstance(one, InvalidResponseError) for one in ended)
    assert max(gaps_s) < sum(gaps_s) / 2


async def test_a_row_that_the_database_refuses_fails_alone(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 9, sla=ALONE)
    async with GroupCommit(db, lease) as commit:
        await asyncio.gather(
            *(commit.reserve(Reservation(n, 1, "small", Decimal(1))) for n in range(9))
        )
        for number in range(9):
            tokens = 2**40 if number == 5 else 3
            completion = Completion("4", {}, Usage(tokens, 1), 200, 0.1)
            attempt = Attempt(
                number, 1, "small", "succeeded", Decimal("0.5"), 0.1, completion.usage
            )
            result = Result(number, ResultStatus.SUCCEEDED, Decimal("0.5"), 1, "small", completion)
            commit.settle(attempt, result)
        await commit.reserve(Reservation(5, 2, "small", Decimal(1)))
        commit.release(5, 2)
    found = await rows(db, "SELECT status, error_code, count(*)::int FROM results GROUP BY 1, 2")
    assert sorted(found) == [("failed", "invalid_response", 1), ("succeeded", None, 8)]
    assert await rows(db, "SELECT reserved_usd, spent_usd FROM ledgers") == [(0, Decimal("4.5"))]


async def test_a_refusal_that_no_answer_caused_is_an_error(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, pool_of(server), 1, sla=ALONE)
    with pytest.raises(StoreError):
        async with GroupCommit(db, lease) as commit:
            await commit.reserve(Reservation(0, 1, "small", Decimal(-1)))


_SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([2**31, 2**63, -1, "418", "error", "SAFETY", "7s", "\x00", 1e308])
)  # fmt: skip
"""Without "429": a row that is told to wait does so as long as its patience lasts."""
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_KEYS = ["choices", "usage", "error", "id", "model", "detail", "code", "message", "status"]
_CHOICE = st.fixed_dictionaries(
    {},
    optional={
        "message": st.fixed_dictionaries(
            {}, optional={"content": _VALUES, "tool_calls": _VALUES, "refusal": _VALUES}
        )
        | _VALUES,
        "finish_reason": _VALUES,
        "error": _VALUES,
        "text": _VALUES,
    },
)
_USAGE = st.dictionaries(
    st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"]),
    _VALUES,
)
_ANSWERS = (
    st.fixed_dictionaries(
        {"choices": st.lists(_CHOICE, min_size=1, max_size=2)},
        optional={"usage": _USAGE | _VALUES, "error": _VALUES, "extra": _VALUES},
    )
    | st.dictionaries(st.sampled_from(_KEYS), _VALUES)
    | _VALUES
)
_BODIES = _ANSWERS.map(lambda one: json.dumps(one).encode()) | st.binary(max_size=64)
_HEADERS = st.dictionaries(
    st.sampled_from(
        ["Retry-After", "retry-after-ms", "x-ratelimit-limit-requests", "Content-Encoding",
         "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "Content-Type"]
    ),
    st.sampled_from(["0", "-1", "1e308", "nan", "gzip", "br", "0s", "1ms", "x", "99" * 200]),
    max_size=2,
)  # fmt: skip
_STATUSES = st.sampled_from([200, 201, 204, 299, 304, 400, 413, 422, 500, 599])
"""Without 404: ten without a word mean that no API stands at the address; the batch is paused."""
_REPLIES = st.lists(st.tuples(_STATUSES, _BODIES, _HEADERS), min_size=12, max_size=12)


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # twelve replies take minutes to shrink
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(replies=_REPLIES)
async def test_no_answer_whatever_it_holds_fails_a_shard_or_another_row(
    db: Database, replies: list[tuple[int, bytes, dict[str, str]]]
) -> None:
    faults = [
        {**sent(body, status=status, headers=headers), "containing": f" {number}?"}
        for number, (status, body, headers) in enumerate(replies)
    ]
    async with FakeServer({"models": {"*": {"faults": faults}}}) as server:
        lease = await prepare(db, patient_pool(server), 16, sla=ALONE)
        async with asyncio.timeout(60):
            assert await dispatch(db, lease, max_attempts_per_model=1)
    batch = lease.key.batch_id
    ended = "SELECT count(*) FROM results WHERE batch_id = %s"
    assert await rows(db, ended, batch) == [(16,)]
    assert await rows(db, f"{ended} AND job_no > 11 AND status = 'succeeded'", batch) == [(4,)]
    assert await rows(db, "SELECT reserved_usd FROM ledgers WHERE batch_id = %s", batch) == [(0,)]
