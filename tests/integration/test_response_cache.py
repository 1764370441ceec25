"""Answers kept from one batch to the next, against a real database and a local endpoint."""

from collections.abc import Mapping
from typing import Any

import pytest

from routoo.domain.batch_options import CallOptions
from routoo.domain.job import SLA, Lease
from routoo.domain.pool import CandidateModel
from routoo.domain.validators import Validators
from routoo.pipeline.dispatch.response_cache import key_of
from routoo.store import ledger, response_cache, results, shards
from routoo.store.database import Database
from tests import batch_factory
from tests.dispatch_factory import dispatch, pool_of, prepare, rows
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

JOBS = 5
FIXED: dict[str, Any] = {"temperature": 0}
CACHED = CallOptions(cache_ttl_s=3600.0)


async def prepared(
    db: Database, server: FakeServer, options: CallOptions = CACHED, body: Mapping[str, Any] = FIXED
) -> Lease:
    return await prepare(db, pool_of(server), JOBS, call_options=options, body=body)


async def run(
    db: Database, server: FakeServer, options: CallOptions = CACHED, body: Mapping[str, Any] = FIXED
) -> list[tuple[Any, ...]]:
    """Run a batch of the same questions; return source, status and answer of its results."""
    server.requests.clear()
    lease = await prepared(db, server, options, body)
    assert await dispatch(db, lease)
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())
        balance = await ledger.balance(conn, lease.key.batch_id)
    assert balance.reserved_usd == 0
    assert (balance.spent_usd > 0) == bool(server.requests)
    query = "SELECT source, status, answer FROM batch_results WHERE batch_id = %s ORDER BY job_no"
    return await rows(db, query, lease.key.batch_id)


async def test_a_second_batch_takes_the_answers_of_the_first_for_nothing(db: Database) -> None:
    async with FakeServer() as server:
        first = await run(db, server)
        second = await run(db, server)
        assert server.requests == []
        assert [row[1:] for row in second] == [row[1:] for row in first]
        assert {row[0] for row in first} == {"call"}
        assert {row[0] for row in second} == {"cache"}
        assert await rows(db, "SELECT sum(cost_usd) FROM results WHERE source = 'cache'") == [(0,)]


async def test_a_long_answer_is_stored_once_and_its_response_read_whole(db: Database) -> None:
    text = "It is quiteanextraordinarilylongstory. " * 6
    async with FakeServer({"models": {"*": {"answer": text}}}) as server:
        batches = [await prepared(db, server) for _ in range(2)]
        for lease in batches:  # the second batch's answers come from the cache
            assert await dispatch(db, lease)
    stored = "SELECT answer, position('longstory' in response::text) FROM"
    for table in ("results", "response_cache"):
        assert set(await rows(db, f"{stored} {table}")) == {(text, 0)}
    async with db.transaction() as conn:
        for lease in batches:
            async for record in results.iterate(conn, lease.key.batch_id):
                assert record.response is not None
                (choice,) = record.response["choices"]
                assert choice["message"] == {"role": "assistant", "content": record.answer}


@pytest.mark.parametrize(
    ("options", "body", "calls"),
    [
        (CallOptions(), FIXED, JOBS),
        (CACHED, {"temperature": 0, "top_p": 0.5}, JOBS),
        (CallOptions(cache_ttl_s=1e-6), FIXED, JOBS),
        (CallOptions(cache_ttl_s=60.0, cache_all=True), FIXED, 0),
    ],
    ids=["without cache", "another request", "too old for it", "cache all"],
)
async def test_an_answer_serves_only_who_asks_for_the_cache_and_for_the_same(
    db: Database, options: CallOptions, body: Mapping[str, Any], calls: int
) -> None:
    async with FakeServer() as server:
        await run(db, server)
        await run(db, server, options, body)
        assert len(server.requests) == calls


async def test_a_request_that_asks_for_chance_is_cached_only_if_wanted(db: Database) -> None:
    async with FakeServer() as server:
        for options, calls in ((CACHED, JOBS), (CACHED, JOBS)):
            await run(db, server, options, {"temperature": 1})
            assert len(server.requests) == calls
        cache_all = CallOptions(cache_ttl_s=60.0, cache_all=True)
        for calls in (JOBS, 0):
            await run(db, server, cache_all, {"temperature": 1})
            assert len(server.requests) == calls


async def test_an_answer_without_reported_usage_is_not_kept(db: Database) -> None:
    async with FakeServer({"models": {"*": {"faults": [{"kind": "missing_usage"}]}}}) as server:
        await run(db, server)
        assert await rows(db, "SELECT count(*) FROM response_cache") == [(0,)]


async def test_expired_answers_are_purged(db: Database) -> None:
    async with FakeServer() as server:
        await run(db, server, CallOptions(cache_ttl_s=1e-6))
        async with db.transaction() as conn:
            assert await response_cache.purge(conn) == JOBS
            assert await response_cache.purge(conn) == 0


def test_parameters_of_a_candidate_are_part_of_the_request_that_is_cached() -> None:
    (plain,) = batch_factory.pool_of("small").models
    record = plain.model_dump(mode="json")
    low, high = (
        CandidateModel.model_validate({**record, "parameters": {"reasoning_effort": effort}})
        for effort in ("low", "high")
    )
    body = {"messages": [], "temperature": 0}
    keys = {key_of(model, body) for model in (plain, low, high)}
    assert len(keys) == 3
    own = {**body, "reasoning_effort": "medium"}
    assert key_of(low, own) == key_of(high, own) == key_of(plain, own)


async def test_a_cached_answer_that_breaks_a_rule_of_the_job_is_not_taken(db: Database) -> None:
    async with FakeServer() as server:
        await run(db, server, CACHED, FIXED)
        lease = await prepare(db, pool_of(server), 1, body=FIXED, call_options=CACHED)
        await rows(db, """UPDATE jobs SET validators = '{"choices": ["never"]}' RETURNING 1""")
        assert await dispatch(db, lease)
    found = "SELECT source, error_code FROM results WHERE batch_id = %s"
    assert await rows(db, found, lease.key.batch_id) == [("call", "validation_failed")]


async def test_a_cached_answer_keeps_why_it_ended(db: Database) -> None:
    cut = {"models": {"*": {"patch": {"choices": [{"finish_reason": "length"}]}}}}
    async with FakeServer(cut) as server:
        await run(db, server)
        assert await rows(db, "SELECT DISTINCT source, finish_reason FROM batch_results") == [
            ("call", "length")
        ]
        server.set_script({"models": {"*": {}}})
        sla = SLA(validators=Validators(not_truncated=True))
        lease = await prepare(db, pool_of(server), JOBS, call_options=CACHED, body=FIXED, sla=sla)
        assert await dispatch(db, lease)
        query = "SELECT DISTINCT source, finish_reason FROM batch_results WHERE batch_id = %s"
        assert await rows(db, query, lease.key.batch_id) == [("call", "stop")]
