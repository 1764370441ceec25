"""Identical requests of a batch, from the selection to their results."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pytest

from routoo.domain.batch_options import CallOptions
from routoo.domain.job import SLA, Lease, ShardKey, Stage
from routoo.store import batches, jobs, ledger, predictions, shards
from routoo.store.batches import retry
from routoo.store.database import Database
from tests.dispatch_factory import (
    billed_usd,
    claim,
    dispatch,
    pool_of,
    predictions_of,
    rows,
    select,
)
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

QUESTIONS = ("Where?", "When?", "Where?", "Where?", "When?", "Who?")
"""Jobs 2 and 3 repeat job 0, job 4 repeats job 1."""


async def scored(db: Database, server: FakeServer, **changes: Any) -> UUID:
    """Submit the questions in shards of two and bring them before the selection."""
    slas: dict[int, SLA] = changes.pop("slas", {})
    temperature: float = changes.pop("temperature", 0)
    async with db.transaction() as conn:
        new = batches.NewBatch(name="repeats", pool=pool_of(server), **changes)
        batch_id, _ = await batches.create(conn, new)
        async with jobs.copy_jobs(conn, batch_id) as copy:
            await copy.write(
                [
                    jobs.JobInput(
                        number,
                        f"job-{number}",
                        body_of(number, temperature),
                        slas.get(number, SLA()),
                    )
                    for number in range(len(QUESTIONS))
                ]
            )
        await batches.seal(conn, batch_id, len(QUESTIONS), 2)
    for shard_no in range(3):
        lease = await claim(db, ShardKey(batch_id, Stage.SCORE, shard_no))
        async with db.transaction() as conn:
            await predictions.save(conn, lease, predictions_of(2))
            await shards.finish(conn, lease, shards.Done())
    return batch_id


def body_of(number: int, temperature: float) -> str:
    """Return a request; each second one has its keys in another order."""
    body = {
        "messages": [{"role": "user", "content": QUESTIONS[number]}],
        "max_tokens": 20,
        "temperature": temperature,
    }
    return orjson.dumps(body if number % 2 else dict(reversed(body.items()))).decode()


async def run(db: Database, batch_id: UUID) -> list[Lease]:
    await select(db, batch_id)
    return await dispatch_all(db, batch_id)


async def dispatch_all(db: Database, batch_id: UUID) -> list[Lease]:
    async with db.transaction() as conn:
        keys = await shards.ready_keys(conn, batch_id)
    leases = [await claim(db, key) for key in reversed(keys)]
    for lease in leases:
        assert await dispatch(db, lease)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.Done())
    return leases


async def test_identical_requests_are_called_once_and_share_the_answer(db: Database) -> None:
    async with FakeServer() as server:
        batch_id = await scored(db, server)
        await run(db, batch_id)
        assert sorted(served.prompt for served in server.requests) == ["When?", "Where?", "Who?"]
        found = await rows(
            db,
            "SELECT job_no, source, answer, cost_usd > 0, expected_cost_usd > 0"
            " FROM batch_results ORDER BY job_no",
        )
        sources = {number: source for number, source, *_ in found}
        assert sources == dict(
            enumerate(["call", "call", "duplicate", "duplicate", "duplicate", "call"])
        )
        answers = [answer for _, _, answer, *_ in found]
        assert answers[0] == answers[2] == answers[3] != answers[1] == answers[4]
        assert all(paid == expected == (source == "call") for _, source, _, paid, expected in found)
        assert await rows(db, "SELECT status FROM batches") == [("completed",)]
        async with db.transaction() as conn:
            balance = await ledger.balance(conn, batch_id)
        assert balance.spent_usd == billed_usd(server)
        assert await rows(db, "SELECT sum(cost_usd) FROM results") == [(balance.spent_usd,)]


async def test_a_request_with_limits_of_its_own_is_called_for_itself(db: Database) -> None:
    async with FakeServer() as server:
        await run(db, await scored(db, server, slas={3: SLA(max_latency_s=30.0)}))
        assert [served.prompt for served in server.requests].count("Where?") == 2


@pytest.mark.parametrize(("dedupe", "calls"), [(None, 6), (True, 3), (False, 6)])
async def test_samples_are_called_for_each_unless_asked_otherwise(
    db: Database, *, dedupe: bool | None, calls: int
) -> None:
    async with FakeServer() as server:
        options = CallOptions(dedupe=dedupe)
        await run(db, await scored(db, server, temperature=1, call_options=options))
        assert len(server.requests) == calls


async def test_a_batch_can_have_every_request_called(db: Database) -> None:
    async with FakeServer() as server:
        await run(db, await scored(db, server, call_options=CallOptions(dedupe=False)))
        assert len(server.requests) == len(QUESTIONS)


async def test_who_shares_an_answer_shares_its_failure_and_its_retry(db: Database) -> None:
    fault = {"kind": "status", "status": 400, "containing": "Where?"}
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        batch_id = await scored(db, server)
        await run(db, batch_id)
        failed = "SELECT job_no FROM results WHERE status = 'failed' ORDER BY job_no"
        assert await rows(db, failed) == [(0,), (2,), (3,)]
        server.set_script({"models": {"*": {}}})
        calls = len(server.requests)
        async with db.transaction() as conn:
            reopened = await retry.reopen(conn, batch_id, retry.UNANSWERED, "a test")
        assert reopened.jobs == 3
        await run(db, batch_id)
        assert len(server.requests) == calls + 1
        assert await rows(db, "SELECT DISTINCT status FROM results") == [("succeeded",)]
        assert await rows(db, "SELECT status FROM batches") == [("completed",)]


async def test_one_refusal_for_want_of_money_holds_for_all_that_ask_the_same(
    db: Database,
) -> None:
    async with FakeServer() as server:
        batch_id = await scored(db, server, budget_usd=Decimal(0))
        await select(db, batch_id)
        assert await rows(db, "SELECT DISTINCT status, count(*) FROM results GROUP BY 1") == [
            ("budget_exhausted", len(QUESTIONS))
        ]
        await dispatch_all(db, batch_id)
        assert await rows(db, "SELECT status FROM batches") == [("completed",)]
