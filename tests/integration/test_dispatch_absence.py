"""Endpoints that are away, ask for long pauses, or take no requests of ours."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from routoo.client.endpoints import ChatEndpoints
from routoo.domain.batch_options import CallOptions, OnUnavailable
from routoo.domain.job import SLA, Lease, ShardKey, Stage
from routoo.domain.pool import Pool
from routoo.errors import EndpointDeniedError
from routoo.pipeline.dispatch.shard import DispatchOptions, dispatch_shard
from routoo.pipeline.dispatch.waiting_jobs import WaitingJobs
from routoo.pipeline.shard_work import ShardWorker, StageWork
from routoo.store import leases, put_off, results, shards
from routoo.store.batches import BatchRecord, control
from routoo.store.database import Database
from routoo.store.endpoints import DatabaseLimits, hold
from tests import batch_factory
from tests.dispatch_factory import (
    PATIENCE_S,
    PRICES,
    claim,
    dispatch,
    dispatch_to_outcome,
    pool_of,
    prepare,
    requests_at,
    rows,
    select,
    some_result,
)
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

AWAY = {"faults": [{"kind": "status", "status": 503}]}
PAUSED = {"faults": [{"kind": "rate_limit", "retry_after": "3600"}]}
DENIED = {"faults": [{"kind": "status", "status": 401, "message": "no such key"}]}
BARE = {"kind": "reply", "status": 404, "text": ""}
SET_BREAKER = (
    "UPDATE endpoints SET account = jsonb_set(jsonb_set(account, '{breaker}',"
    " account->'breaker' || '{\"prober\": null}'), '{breaker,open_until_s}', to_jsonb(%s::float8))"
)


async def release(db: Database, lease: Lease) -> None:
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.HandedBack())


async def answering(db: Database) -> list[tuple[Any, ...]]:
    query = "SELECT model, status, reason, count(*) FROM results GROUP BY 1, 2, 3 ORDER BY 4 DESC"
    return await rows(db, query)


async def test_jobs_wait_for_their_model_while_it_is_away(db: Database) -> None:
    async with FakeServer({"models": {"large": AWAY, "small": {}}}) as server:
        lease = await prepare(db, pool_of(server), 40, model="large")
        dispatching = asyncio.create_task(dispatch(db, lease))
        await requests_at(server, 10)
        await asyncio.sleep(1.5)
        server.set_script({"models": {"*": {}}})
        assert await dispatching
        assert await answering(db) == [("large", "succeeded", None, 40)]


async def test_a_single_job_waits_for_a_model_that_is_away_for_a_moment(db: Database) -> None:
    async with FakeServer({"models": {"large": AWAY, "small": {}}}) as server:
        lease = await prepare(db, pool_of(server), 1, model="large")
        dispatching = asyncio.create_task(dispatch(db, lease, max_attempts_per_model=20))
        await requests_at(server, 3)
        await asyncio.sleep(0.5)
        server.set_script({"models": {"*": {}}})
        assert await dispatching
        assert await answering(db) == [("large", "succeeded", None, 1)]


@pytest.mark.parametrize("row", [False, True])
async def test_jobs_fall_back_at_once_if_they_are_told_to(db: Database, *, row: bool) -> None:
    async with FakeServer({"models": {"large": AWAY, "small": {}}}) as server:
        options = CallOptions(on_unavailable=OnUnavailable("wait" if row else "fallback"))
        sla = SLA(on_unavailable="fallback" if row else None)
        pool = pool_of(server)
        lease = await prepare(db, pool, 30, model="large", sla=sla, call_options=options)
        assert await dispatch(db, lease, max_attempts_per_model=20)
        assert await answering(db) == [("small", "succeeded", "unavailable", 30)]


async def test_what_patience_leaves_is_planned_anew_over_the_money_left(db: Database) -> None:
    async with FakeServer({"models": {"large": AWAY, "small": {}}}) as server:
        options = CallOptions(patience_s=0.3)
        lease = await prepare(db, pool_of(server), 30, model=None, call_options=options)
        dispatching = asyncio.create_task(
            dispatch(db, lease, max_attempts_per_model=20, replan_wait_s=20.0, shared=True)
        )
        away = "SELECT 1 FROM endpoints WHERE (account #>> '{breaker,pause_s}')::float > 0"
        for awaited in ("SELECT 1 FROM replans", away):
            async with asyncio.timeout(PATIENCE_S):
                while not await rows(db, awaited):
                    await asyncio.sleep(0.05)
        await select(db, lease.key.batch_id)
        assert await dispatching
        found = await answering(db)
        assert {(model, status) for model, status, _, _ in found} == {("small", "succeeded")}
        assert {reason for _, _, reason, _ in found} <= {"unavailable", "replan"}
        ((reason, moved),) = await rows(db, "SELECT reason, moved FROM replans")
        assert reason.startswith("jobs leave large")
        assert moved >= 20


async def test_a_pause_that_outlasts_patience_is_not_waited_for(db: Database) -> None:
    async with FakeServer({"models": {"large": PAUSED, "small": {}}}) as server:
        lease = await prepare(db, pool_of(server), 20, model="large")
        async with asyncio.timeout(PATIENCE_S):  # the pause takes an hour
            assert await dispatch(db, lease)
        assert await answering(db) == [("small", "succeeded", "rate_limited", 20)]


async def test_deadlines_are_kept_while_endpoints_pause(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routoo.domain.absence.SHORT_WAIT_S", 7200.0)  # the shard is kept
    async with FakeServer({"models": {"*": PAUSED}}) as server:
        options = CallOptions(patience_s=7200.0)
        deadline = datetime.now(UTC) + timedelta(seconds=4)
        sla = SLA(deadline=deadline)
        lease = await prepare(db, pool_of(server), 20, model="large", sla=sla, call_options=options)
        async with asyncio.timeout(PATIENCE_S):  # the pause takes an hour
            assert await dispatch(db, lease)
        assert server.requests
        assert await answering(db) == [(None, "expired", None, 20)]


async def test_jobs_of_a_shard_that_was_handed_back_expire_on_time(db: Database) -> None:
    async with FakeServer({"models": {"*": PAUSED}}) as server:
        deadline = datetime.now(UTC) + timedelta(seconds=30)
        lease = await prepare(db, pool_of(server), 5, model="large", sla=SLA(deadline=deadline))
        outcome = await dispatch_to_outcome(db, lease)
        assert isinstance(outcome, shards.HandedBack)
        assert outcome.waits_for is not None
        async with db.transaction() as conn:
            await shards.finish(conn, lease, outcome)
            assert await results.expire_waiting(conn) == 0
        await rows(db, "UPDATE jobs SET deadline = now() RETURNING 1")
        await rows(db, "UPDATE shards SET next_deadline = now() RETURNING 1")
        async with db.transaction() as conn:
            assert await results.expire_waiting(conn) == 5


async def test_rows_of_a_shard_that_no_worker_is_free_for_expire_at_their_own_deadlines(
    db: Database,
) -> None:
    now = datetime.now(UTC)
    first, second = now - timedelta(seconds=1), now + timedelta(hours=1)
    slas = [SLA(), SLA(deadline=second), SLA(deadline=first), SLA()]
    batch_id = await batch_factory.submit(db, 4, shard_size=4, slas=slas)
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    async with db.transaction() as conn:
        assert await results.expire_waiting(conn) == 1
    assert await rows(db, "SELECT job_no, status FROM results") == [(2, "expired")]
    watched = "SELECT next_deadline FROM shards WHERE stage = 'dispatch'"
    assert await rows(db, watched) == [(second,)]
    async with db.transaction() as conn:
        assert await results.expire_waiting(conn) == 0


async def test_rows_expire_at_their_own_deadlines_while_their_batch_is_being_scored(
    db: Database,
) -> None:
    slas = [SLA(), SLA(deadline=datetime.now(UTC) - timedelta(seconds=1))]
    batch_id = await batch_factory.submit(db, 2, shard_size=2, slas=slas)
    async with db.transaction() as conn:
        assert await results.expire_waiting(conn) == 1
    assert await rows(db, "SELECT job_no, status FROM results") == [(1, "expired")]
    await batch_factory.score(db, batch_id)
    await select(db, batch_id)
    assert await rows(db, "SELECT job_no, status FROM results") == [(1, "expired")]


async def test_a_shard_whose_endpoint_is_away_is_due_when_it_may_be_probed(
    db: Database,
) -> None:
    async with FakeServer({"models": {"*": AWAY}}) as server:
        lease = await prepare(db, pool_of(server, {"small": PRICES["small"]}), 20)
        outcome = await dispatch_to_outcome(db, lease, shared=True)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, outcome)
            await conn.execute(SET_BREAKER, [time.time() + 60])
            assert await put_off.make_due(conn) == []
            await conn.execute(SET_BREAKER, [time.time() - 1])
            assert await put_off.make_due(conn) == [lease.key]
            assert await put_off.make_due(conn) == []  # it is due already, and will probe
        again = await claim(db, lease.key)
        server.set_script({"models": {"*": {}}})
        assert await dispatch(db, again, shared=True)


async def test_all_shards_are_due_once_their_endpoint_answers_or_their_batch_is_resumed(
    db: Database,
) -> None:
    batch_id = await batch_factory.submit(db, 6, shard_size=2)
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    keys = [ShardKey(batch_id, Stage.DISPATCH, number) for number in range(3)]

    async def put_all_off() -> None:
        for key in keys:
            lease = await claim(db, key)
            async with db.transaction() as conn:
                waits_for = put_off.WaitsFor(frozenset({"a", "b"}))
                await shards.finish(conn, lease, shards.HandedBack(100.0, waits_for))

    async with db.transaction() as conn:
        for name in ("a", "b"):
            await hold(conn, name, held=True)
    await put_all_off()
    async with db.transaction() as conn:
        assert await put_off.make_due(conn) == []
        assert await leases.due(conn, Stage.DISPATCH, 10) == []
        await hold(conn, "b", held=False)
        assert await put_off.make_due(conn) == keys
        assert await leases.due(conn, Stage.DISPATCH, 10) == keys
        await hold(conn, "b", held=True)
    await put_all_off()
    async with db.transaction() as conn:
        assert await put_off.make_due(conn) == []
        await control.resume(conn, batch_id)
        assert await leases.due(conn, Stage.DISPATCH, 10) == keys


async def test_a_shard_that_waits_for_money_is_due_when_its_batch_has_it(db: Database) -> None:
    batch_id = await batch_factory.submit(db, 2, shard_size=2, budget_usd=Decimal(1))
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
    async with db.transaction() as conn:
        waits_for = put_off.WaitsFor(usd=Decimal("0.4"))
        await shards.finish(conn, lease, shards.HandedBack(60.0, waits_for))
        await conn.execute("UPDATE ledgers SET reserved_usd = 0.7")
        assert await put_off.make_due(conn) == []
        await conn.execute("UPDATE ledgers SET reserved_usd = 0.6")
        assert await put_off.make_due(conn) == [lease.key]


def worker_of(db: Database, client: ChatEndpoints) -> ShardWorker:
    async def call(lease: Lease, batch: BatchRecord) -> shards.WorkOutcome:
        stop = asyncio.Event()
        return await dispatch_shard(db, client, lease, batch, options=DispatchOptions(), stop=stop)

    stages = {Stage.DISPATCH: StageWork(call)}
    return ShardWorker(db, "me", stages, lease_s=60.0, max_failures=5)


async def test_a_healthy_batch_is_not_delayed_by_more_paused_shards_than_there_are_threads(
    db: Database,
) -> None:
    script = {"models": {"large": PAUSED, "small": {"latency_s": 0.05}}}
    async with FakeServer(script) as server, ChatEndpoints(limits=DatabaseLimits(db)) as client:
        options = CallOptions(patience_s=7200.0)
        for _ in range(12):
            lease = await prepare(db, pool_of(server), 20, model="large", call_options=options)
            await release(db, lease)
        healthy = await prepare(db, pool_of(server), 40)
        await release(db, healthy)
        me = worker_of(db, client)
        async with db.transaction() as conn:
            queue = await leases.due(conn, Stage.DISPATCH, 100)
        assert queue.pop() == healthy.key

        async def thread() -> None:
            while queue:
                await me.handle(queue.pop(0))

        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(thread(), thread())  # all paused shards let go of their threads
            await me.handle(healthy.key)
        assert await answering(db) == [("small", "succeeded", None, 40)]
        waiting = "SELECT count(*) FROM shards WHERE not_before > now() + interval '60 s'"
        assert await rows(db, waiting) == [(12,)]


async def test_shards_behind_one_that_uses_up_a_limit_per_minute_hold_no_threads(
    db: Database,
) -> None:
    async with (
        FakeServer({"models": {"*": {}}}) as server,
        ChatEndpoints(limits=DatabaseLimits(db)) as client,
    ):
        small, large = pool_of(server).models
        limited = large.endpoint.model_copy(update={"requests_per_minute": 60})
        pool = Pool(models=(small, large.model_copy(update={"endpoint": limited})))
        keys = []
        for model, count in [*[("large", 60)] * 12, ("small", 40)]:
            lease = await prepare(db, pool, count, model=model)
            await release(db, lease)
            keys.append(lease.key)
        me = worker_of(db, client)
        first, *others, healthy = keys
        handling = asyncio.create_task(me.handle(first))
        await requests_at(server, 10)
        async with asyncio.timeout(PATIENCE_S):
            for key in others:  # by one thread: each lets go of it at once
                await me.handle(key)
            await me.handle(healthy)
        assert not handling.done()
        ((name, limit),) = await rows(
            db,
            "SELECT endpoint, account ->> 'rate_per_s' FROM endpoints"
            " WHERE position('large' in endpoint) > 0",
        )
        assert float(limit) == 1.0
        put_off_now = "SELECT count(*) FROM shards WHERE not_before > now() AND waits_for = %s"
        assert await rows(db, put_off_now, [name]) == [(11,)]
        answered = "SELECT count(*) FROM results WHERE batch_id = %s"
        assert await rows(db, answered, healthy.batch_id) == [(40,)]
        async with db.transaction() as conn:
            assert await put_off.make_due(conn) == []  # the first keeps the endpoint busy
        handling.cancel()
        await asyncio.gather(handling, return_exceptions=True)
        await rows(db, "UPDATE endpoints SET account = account || '{\"seats\": {}}' RETURNING 1")
        async with db.transaction() as conn:
            assert await put_off.make_due(conn) == [others[0]]  # one that keeps it busy


async def test_shards_behind_one_that_fills_the_slots_hold_no_threads(db: Database) -> None:
    script = {"models": {"large": {"latency_s": 1.5}, "small": {"latency_s": 0.05}}}
    async with FakeServer(script) as server, ChatEndpoints(limits=DatabaseLimits(db)) as client:
        keys = []
        for model, count in [*[("large", 80)] * 6, ("small", 40)]:
            lease = await prepare(db, pool_of(server), count, model=model)
            await release(db, lease)
            keys.append(lease.key)
        me = worker_of(db, client)
        first, *others, healthy = keys
        handling = asyncio.create_task(me.handle(first))
        await some_result(db)
        await asyncio.sleep(0.5)  # an exchange tells how long calls take: 80 wait for 13 s
        async with asyncio.timeout(10):
            for key in others:
                await me.handle(key)
            await me.handle(healthy)
        assert not handling.done()
        put_off_now = "SELECT count(*) FROM shards WHERE not_before > now() AND waits_for <> '{}'"
        assert await rows(db, put_off_now) == [(5,)]
        answered = "SELECT count(*) FROM results WHERE batch_id = %s"
        assert await rows(db, answered, healthy.batch_id) == [(40,)]
        async with db.transaction() as conn:
            assert await put_off.make_due(conn) == []  # the first fills the slots
        async with asyncio.timeout(PATIENCE_S):
            while (await rows(db, answered, first.batch_id))[0][0] < 60:
                await asyncio.sleep(0.1)
            async with db.transaction() as conn:
                assert await put_off.make_due(conn) == [others[0]]  # before the slots are empty
            await handling


async def test_a_shard_at_the_front_of_a_queue_is_not_put_off_for_a_retry() -> None:
    model = batch_factory.pool_of("small").models[0]
    waiting = WaitingJobs(asyncio.Event(), record=lambda _: None)
    for number in (1, 2):
        waiting.begin(number)
    assert not waiting.wait_in_line(1, model, 10.2)
    await asyncio.sleep(0.3)  # the first one's turn is near
    assert not waiting.wait_in_line(2, model, 10.2)
    assert waiting.wait_in_line(1, model, 10.2)


async def test_a_cancelled_batch_ends_though_its_calls_wait_for_an_endpoint_that_others_fill(
    db: Database,
) -> None:
    script = {"models": {"small": {"latency_s": 300.0}}}
    async with FakeServer(script) as server, ChatEndpoints(limits=DatabaseLimits(db)) as client:
        other = await prepare(db, pool_of(server), 40)
        filling = asyncio.create_task(dispatch_to_outcome(db, other, client=client))
        await requests_at(server, 8)
        lease = await prepare(db, pool_of(server), 30)
        dispatching = asyncio.create_task(dispatch_to_outcome(db, lease, client=client))
        await asyncio.sleep(1)
        async with db.transaction() as conn:
            await control.cancel(conn, lease.key.batch_id)
        async with asyncio.timeout(PATIENCE_S):  # the endpoint's calls take longer
            outcome = await dispatching
        async with db.transaction() as conn:
            await shards.finish(conn, lease, outcome)
        ended = "SELECT status, count(*) FROM results WHERE batch_id = %s GROUP BY 1"
        assert await rows(db, ended, lease.key.batch_id) == [("cancelled", 30)]
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


async def test_a_cancelled_batch_ends_at_once_what_is_not_in_flight(db: Database) -> None:
    async with FakeServer({"models": {"small": {}}}) as server:
        lease = await prepare(db, pool_of(server), 30)
        dispatching = asyncio.create_task(dispatch_to_outcome(db, lease))
        with server.held("small"):
            await requests_at(server, 8)
            async with db.transaction() as conn:
                await control.cancel(conn, lease.key.batch_id)
            await some_result(db)
            assert not dispatching.done()
        outcome = await dispatching
        async with db.transaction() as conn:
            await shards.finish(conn, lease, outcome)
        assert await answering(db) == [
            (None, "cancelled", None, 22),
            ("small", "succeeded", None, 8),
        ]


async def test_shards_of_jobs_without_deadlines_are_never_watched_for_them(db: Database) -> None:
    await batch_factory.submit(db, 2)
    assert await rows(db, "SELECT count(*) FROM shards WHERE next_deadline IS NOT NULL") == [(0,)]
    assert await rows(db, "SELECT first_deadline FROM batches") == [(None,)]


async def test_a_denied_model_is_left_as_its_batch_says(db: Database) -> None:
    async with FakeServer({"models": {"large": DENIED, "small": {}}}) as server:
        options = CallOptions(on_unavailable=OnUnavailable.FALLBACK)
        lease = await prepare(db, pool_of(server), 30, model="large", call_options=options)
        assert await dispatch(db, lease)
        assert await answering(db) == [("small", "succeeded", "denied", 30)]
        assert sum(request.model == "large" for request in server.requests) < 20


@pytest.mark.parametrize("others", [False, True], ids=["alone", "with another model"])
async def test_a_nul_in_what_an_endpoint_says_of_a_key_fails_no_shard(
    db: Database, *, others: bool
) -> None:
    denied = {"faults": [{"kind": "status", "status": 401, "message": "no such\0key"}]}
    script = {"large": denied, "small": {}} if others else {"*": denied}
    async with FakeServer({"models": script}) as server:
        options = CallOptions(patience_s=1.0)
        lease = await prepare(db, pool_of(server), 10, model="large", call_options=options)
        async with asyncio.timeout(PATIENCE_S):
            assert await dispatch(db, lease, shared=True) is others
        ((status, error),) = await rows(db, "SELECT status, error FROM batches")
        if others:
            assert await answering(db) == [("small", "succeeded", "denied", 10)]
        else:
            assert status == "paused"
            assert "no such" in error


async def test_a_batch_whose_models_are_all_denied_is_paused_with_what_to_do(db: Database) -> None:
    async with FakeServer({"models": {"*": DENIED}}) as server:
        lease = await prepare(db, pool_of(server), 200)
        outcome = await dispatch_to_outcome(db, lease)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, outcome)
        ((status, error),) = await rows(db, "SELECT status, error FROM batches")
        assert status == "paused"
        assert "no such key" in error
        assert "api_key_env" in error
        assert "resume" in error
        assert await rows(db, "SELECT count(*) FROM results") == [(0,)]
        assert len(server.requests) <= 40
        server.set_script({"models": {"*": {}}})
        async with db.transaction() as conn:
            await control.resume(conn, lease.key.batch_id)
        assert await rows(db, "SELECT error FROM batches") == [(None,)]
        assert await dispatch(db, await claim(db, lease.key))
        assert await answering(db) == [("small", "succeeded", None, 200)]


async def test_only_one_job_finds_out_whether_another_model_denies_requests_too(
    db: Database,
) -> None:
    async with FakeServer({"models": {"large": DENIED, "small": {}}}) as server:
        lease = await prepare(db, pool_of(server), 20, model="large")
        dispatching = asyncio.create_task(dispatch(db, lease))
        await some_result(db)
        await asyncio.sleep(1.5)
        assert await answering(db) == [("small", "succeeded", "denied", 1)]
        dispatching.cancel()
        await asyncio.gather(dispatching, return_exceptions=True)
        # The worker that takes the shard next knows who answers, and sends no other job there.
        await rows(db, "UPDATE shards SET lease_expires_at = now() RETURNING 1")
        dispatching = asyncio.create_task(dispatch(db, await claim(db, lease.key)))
        await asyncio.sleep(1.5)
        assert await answering(db) == [("small", "succeeded", "denied", 1)]
        dispatching.cancel()
        await asyncio.gather(dispatching, return_exceptions=True)


async def test_a_resumed_batch_goes_on_at_once_at_the_worker_that_saw_the_denial(
    db: Database,
) -> None:
    async with FakeServer({"models": {"*": DENIED}}) as server:
        pool = pool_of(server)
        async with ChatEndpoints(pool.models, limits=DatabaseLimits(db)) as client:
            for model in pool.models:
                with pytest.raises(EndpointDeniedError):
                    await client.complete(model, {"messages": []})
            lease = await prepare(db, pool, 20)
            outcome = await dispatch_to_outcome(db, lease, client=client)
            async with db.transaction() as conn:
                await shards.finish(conn, lease, outcome)
            assert await rows(db, "SELECT status FROM batches") == [("paused",)]
            server.set_script({"models": {"*": {}}})
            async with db.transaction() as conn:
                await control.resume(conn, lease.key.batch_id)
            assert await dispatch(db, await claim(db, lease.key), client=client)
        assert await answering(db) == [("small", "succeeded", None, 20)]


async def test_rows_that_spoil_their_answers_end_though_they_look_like_an_outage(
    db: Database,
) -> None:
    odd = {"faults": [{"kind": "wrong_json", "containing": f"{number}?"} for number in range(7)]}
    async with FakeServer({"models": {"small": odd, "large": odd}}) as server:
        lease = await prepare(db, pool_of(server), 10)
        assert await dispatch(db, lease)
        assert await answering(db) == [
            ("large", "failed", None, 7),
            ("small", "succeeded", None, 3),
        ]
        assert len(server.requests) == 7 * 4 + 3


ONE_MODEL = {"small": Decimal(1)}


@pytest.mark.parametrize(("row", "latency_s"), [(7, 0.0), (0, 0.5)], ids=["later", "first"])
async def test_one_row_that_a_bare_404_answers_costs_itself_alone(
    db: Database, row: int, latency_s: float
) -> None:
    late = {"kind": "slow_headers", "delay_s": latency_s}
    faults = [{**BARE, "containing": f" {row}?"}, late]
    async with FakeServer({"models": {"*": {"faults": faults}}}) as server:
        lease = await prepare(db, pool_of(server, ONE_MODEL), 20)
        assert await dispatch(db, lease)
        assert await rows(db, "SELECT status, error FROM batches") == [("in_progress", None)]
        found = await rows(
            db, "SELECT job_no, error_code, error_message FROM results WHERE status = 'failed'"
        )
        assert [one[:2] for one in found] == [(row, "request_rejected")]
        assert "answers other requests" in found[0][2]
        assert await rows(db, "SELECT count(*) FROM results") == [(20,)]
        assert len(server.requests) == 21


@pytest.mark.parametrize("status", [404, 405])
async def test_a_wrong_address_pauses_its_batch_before_any_row_failed(
    db: Database, status: int
) -> None:
    wrong = {"faults": [{**BARE, "status": status}]}
    async with FakeServer({"models": {"*": wrong}}) as server:
        lease = await prepare(db, pool_of(server, ONE_MODEL), 100)
        assert not await dispatch(db, lease)
        ((state, error),) = await rows(db, "SELECT status, error FROM batches")
        assert state == "paused"
        assert "base_url" in error
        assert await rows(db, "SELECT count(*) FROM results") == [(0,)]
        assert len(server.requests) <= 10


async def test_an_address_that_goes_away_pauses_its_batch_and_costs_no_row(db: Database) -> None:
    async with FakeServer() as server:
        (model,) = pool_of(server, ONE_MODEL).models
        few = model.endpoint.model_copy(update={"max_concurrency": 1})  # retries come soon
        pool = Pool(models=(model.model_copy(update={"endpoint": few}),))
        lease = await prepare(db, pool, 1_000)
        dispatching = asyncio.create_task(dispatch(db, lease, max_attempts_per_model=4))
        await requests_at(server, 100)
        server.set_script({"models": {"*": {"faults": [BARE], "latency_s": 0.5}}})
        assert not await dispatching
        assert await rows(db, "SELECT status FROM batches") == [("paused",)]
        failed = "SELECT count(*) FROM results WHERE status = 'failed'"
        assert await rows(db, failed) == [(0,)]
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
            await control.resume(conn, lease.key.batch_id)
        server.set_script({"models": {"*": {}}})
        assert await dispatch(db, await claim(db, lease.key))
        assert await answering(db) == [("small", "succeeded", None, 1_000)]


async def test_rows_move_to_another_model_where_an_address_goes_away(db: Database) -> None:
    async with FakeServer() as server:
        options = CallOptions(patience_s=1.0)
        lease = await prepare(db, pool_of(server), 400, model="large", call_options=options)
        dispatching = asyncio.create_task(dispatch(db, lease, max_attempts_per_model=4))
        await requests_at(server, 100)
        server.set_script({"models": {"large": {"faults": [BARE]}, "small": {}}})
        assert await dispatching
        found = await answering(db)
        assert {(model, status) for model, status, *_ in found} == {
            ("large", "succeeded"),
            ("small", "succeeded"),
        }
        assert sum(count for *_, count in found) == 400


@pytest.mark.parametrize("others", [False, True], ids=["alone", "with another model"])
async def test_no_row_is_lost_where_nobody_listens_at_an_address_for_a_while(
    db: Database, *, others: bool
) -> None:
    async with FakeServer() as first, FakeServer() as elsewhere:
        large = pool_of(first).models[1]
        beside = pool_of(elsewhere).models[0]
        pool = Pool(models=(beside, large) if others else (large,))
        options = CallOptions(patience_s=1.0 if others else 60.0)
        lease = await prepare(db, pool, 600, model="large", call_options=options)
        dispatching = asyncio.create_task(dispatch(db, lease, max_attempts_per_model=4))
        await requests_at(first, 200)
        await first.__aexit__()
        await asyncio.sleep(3.0)
        if not others:
            await first.__aenter__()
        assert await dispatching
        found = await answering(db)
        assert {status for _, status, *_ in found} == {"succeeded"}
        assert sum(count for *_, count in found) == 600


@pytest.mark.parametrize("status", [200, 429])
async def test_a_row_that_is_told_to_wait_for_ever_ends_with_its_patience(
    db: Database, status: int
) -> None:
    body = {"error": {"message": "later", "code": "429"}}
    fault = {"kind": "reply", "status": status, "json": body, "containing": " 3?"}
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        options = CallOptions(patience_s=3.0)
        lease = await prepare(db, pool_of(server, ONE_MODEL), 5, call_options=options)
        started_s = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            assert await dispatch(db, lease)
        assert time.monotonic() - started_s >= 3.0
        found = await rows(db, "SELECT job_no, error_code FROM results WHERE status = 'failed'")
        assert found == [(3, "rate_limited")]
        assert await rows(db, "SELECT count(*) FROM results") == [(5,)]


async def test_a_row_that_is_told_to_wait_for_ever_falls_back_to_another_model(
    db: Database,
) -> None:
    limited = {"faults": [{"kind": "rate_limit", "retry_after": "2"}]}
    async with FakeServer({"models": {"large": limited, "small": {}}}) as server:
        options = CallOptions(patience_s=3.0)
        lease = await prepare(db, pool_of(server), 5, model="large", call_options=options)
        async with asyncio.timeout(PATIENCE_S):
            assert await dispatch(db, lease)
        assert await answering(db) == [("small", "succeeded", "rate_limited", 5)]
