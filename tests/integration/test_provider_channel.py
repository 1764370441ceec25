"""Jobs through a provider's batch API, against a real database and a server of the protocol."""

import asyncio
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest

from routoo.client.endpoints import ChatEndpoints
from routoo.client.provider_batches import ProviderBatches
from routoo.domain.batch_options import OnContentFilter
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.endpoint import Endpoint
from routoo.domain.job import BatchStatus, Lease, ShardKey, Stage
from routoo.domain.pool import BatchChannel, CandidateModel, Pool, Tariff
from routoo.domain.prediction import Assignment
from routoo.pipeline.dispatch.shard import DispatchOptions, dispatch_shard
from routoo.pipeline.provider_batch.channel import ProviderChannel
from routoo.pipeline.provider_batch.tracker import BatchTracker, ChannelOptions
from routoo.store import assignments, batches, jobs, leases, ledger, predictions, shards
from routoo.store import budget as budgets
from routoo.store.batches import control
from routoo.store.batches.progress import progress
from routoo.store.database import Database
from routoo.store.evaluation import grades
from tests.dispatch_factory import PATIENCE_S, claim, predictions_of, rows
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

QUICK = ChannelOptions(poll_s=0.0, longest_poll_s=0.01, create_grace_s=0.0)
HALF, FULL = Decimal(1), Decimal(2)


def pool_of(server: FakeServer, **channel: Any) -> Pool:
    """Return a model at 2 USD per million tokens, and its channel at half of that."""
    model = CandidateModel(
        name="m",
        endpoint=Endpoint(base_url=server.base_url, timeout_s=5),
        price_usd_per_mtok=Tariff(prompt=FULL, completion=FULL),
        context_window_tokens=4096,
        max_completion_tokens=20,
        batch_channel=BatchChannel(
            price_usd_per_mtok=Tariff(prompt=HALF, completion=HALF), **channel
        ),
    )
    return Pool(models=(model,)).with_batch_channels()


async def prepare(
    db: Database, pool: Pool, prompts: list[str], *, budget_usd: str | None = None
) -> Lease:
    """Bring a batch whose jobs are all assigned to the channel to its one dispatch shard."""
    budget = None if budget_usd is None else Decimal(budget_usd)
    async with db.transaction() as conn:
        new = batches.NewBatch(name="test", pool=pool, budget_usd=budget)
        batch_id, _ = await batches.create(conn, new)
        async with jobs.copy_jobs(conn, batch_id) as copy:
            await copy.write(
                [
                    jobs.JobInput(number, f"job-{number}", _body(prompt))
                    for number, prompt in enumerate(prompts)
                ]
            )
        await batches.seal(conn, batch_id, len(prompts), 1000)
    score = await claim(db, ShardKey(batch_id, Stage.SCORE, 0))
    async with db.transaction() as conn:
        await predictions.save(conn, score, predictions_of(len(prompts)))
        await shards.finish(conn, score, shards.Done())
    select = await claim(db, ShardKey(batch_id, Stage.SELECT, 0))
    async with db.transaction() as conn:
        chosen = [Assignment(n, "m@batch", 0.5, Decimal("0.0001")) for n in range(len(prompts))]
        await assignments.save(conn, select, chosen, 1)
        await shards.finish(conn, select, shards.Done())
    return await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))


def _body(prompt: str) -> str:
    named = {"model": "m@batch"} if "NAMED" in prompt else {}
    return orjson.dumps({"messages": [{"role": "user", "content": prompt}], **named}).decode()


async def take_turn(
    db: Database, lease: Lease, *, timeout_s: float = 5.0, options: ChannelOptions = QUICK
) -> bool:
    """Dispatch the leased shard once, as a worker does; hand it back if it isn't done."""
    async with db.transaction() as conn:
        batch = await batches.get(conn, lease.key.batch_id)
    async with ProviderBatches(timeout_s=timeout_s) as provider, ChatEndpoints() as client:

        async def call() -> shards.WorkOutcome:
            return await dispatch_shard(
                db, client, lease, batch, options=DispatchOptions(2), stop=asyncio.Event()
            )

        channel = ProviderChannel(BatchTracker(db, provider, options, client.behaviour))
        outcome = await channel.dispatch(lease, batch, call)
    async with db.transaction() as conn:
        await shards.finish(conn, lease, outcome)
    return isinstance(outcome, shards.Done)


async def finish(db: Database, lease: Lease) -> None:
    """Take turns at the shard until it is done."""
    while not await take_turn(db, lease):
        lease = await _claim_again(db, lease)


async def _claim_again(db: Database, lease: Lease) -> Lease:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with db.transaction() as conn:
                again = await leases.claim(conn, lease.key, "worker", 60.0)
            if again is not None:
                return again
            await asyncio.sleep(0.01)


async def outcome(db: Database) -> list[tuple[Any, ...]]:
    return await rows(db, "SELECT job_no, status, model FROM results ORDER BY job_no")


async def assert_settled(db: Database) -> Decimal:
    """Check that nothing is reserved or overrun; return what was spent, in USD."""
    reserved, overrun, spent = (
        await rows(db, "SELECT reserved_usd, overrun_usd, spent_usd FROM ledgers")
    )[0]
    assert (reserved, overrun) == (0, 0)
    costs = await rows(db, "SELECT sum(cost_usd) FROM attempts")
    assert costs == [(spent,)]
    return Decimal(spent)


def billed_usd(server: FakeServer) -> Decimal:
    """Return what the provider would charge, for batches and for calls."""
    through = sum(batch.billed_tokens for batch in server.batches.batches.values()) * HALF
    called = sum(one.prompt_tokens + one.completion_tokens for one in server.requests) * FULL
    return (through + called) / 1_000_000


async def test_jobs_go_out_together_wait_without_a_lease_and_are_paid_at_the_discount(
    db: Database,
) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": {"latency_s": 0.4}}) as server:
        lease = await prepare(db, pool_of(server), [f"Question {n}?" for n in range(30)])
        slow = ChannelOptions(poll_s=60.0, longest_poll_s=60.0)
        assert not await take_turn(db, lease, options=slow)
        async with db.transaction() as conn:
            assert (await progress(conn, lease.key.batch_id)).at_providers == 30
        reserved = (await rows(db, "SELECT reserved_usd FROM ledgers"))[0][0]
        assert reserved > 0
        async with db.transaction() as conn:
            assert await leases.claim(conn, lease.key, "worker", 60.0) is None
            assert await leases.due(conn, Stage.DISPATCH, 10) == []
        await rows(db, "UPDATE shards SET not_before = now() RETURNING 1")
        await finish(db, await _claim_again(db, lease))
        assert await outcome(db) == [(n, "succeeded", "m@batch") for n in range(30)]
        assert len(server.batches.batches) == 1
        assert server.requests == []
        sent = server.batches.batches["batch_1"]
        assert (sent.endpoint, sent.window) == ("/v1/chat/completions", "24h")
        assert await assert_settled(db) == billed_usd(server)
        assert await rows(db, "SELECT status FROM batches") == [("completed",)]


async def test_a_row_whose_answer_cannot_be_stored_fails_alone(db: Database) -> None:
    async with FakeServer({"models": {"m": {}}}) as server:
        lease = await prepare(db, pool_of(server), ["fine", "DEEP this", "fine too", "well"])
        await finish(db, lease)
        found = await outcome(db)
        await assert_settled(db)
    assert [one for one in found if one[0] != 1] == [(n, "succeeded", "m@batch") for n in (0, 2, 3)]
    assert found[1][1:] == ("failed", "m@batch")


async def test_rows_that_fail_expire_or_vanish_are_called_one_by_one(db: Database) -> None:
    prompts = ["fine", "FAIL this", "EXPIRE this", "DROP this", "NOUSAGE here"]
    script = {"models": {"m": {}}, "batches": {"status": "expired"}}
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), prompts)
        await finish(db, lease)
        assert await outcome(db) == [
            (0, "succeeded", "m@batch"),
            *[(n, "succeeded", "m") for n in (1, 2, 3)],
            (4, "succeeded", "m@batch"),
        ]
        assert len(server.requests) == 3
        spent = await assert_settled(db)
        assert spent > billed_usd(server)  # what vanished and what had no usage: the worst case
        attempts = await rows(
            db,
            "SELECT job_no, status, error_code, cost_usd > 0 FROM attempts"
            " WHERE model = 'm@batch' ORDER BY 1",
        )
        assert attempts == [
            (0, "succeeded", None, True),
            (1, "failed", "request_rejected", False),
            (2, "failed", "request_rejected", False),
            (3, "failed", "invalid_response", True),
            (4, "succeeded", None, True),
        ]


async def test_a_job_that_names_the_channel_is_called_by_no_other_model_and_says_why(
    db: Database,
) -> None:
    async with FakeServer() as server:
        await finish(db, await prepare(db, pool_of(server), ["NAMED FAIL", "NAMED fine"]))
        assert await outcome(db) == [(0, "failed", "m@batch"), (1, "succeeded", "m@batch")]
        errors = await rows(db, "SELECT error_code, error_message FROM results WHERE job_no = 0")
        assert errors[0][0] == "request_rejected"
        assert "bad row" in errors[0][1]
        assert await assert_settled(db) == billed_usd(server)


@pytest.mark.parametrize(
    ("policy", "outcomes"),
    [
        (OnContentFilter.FALLBACK, [(0, "succeeded", "m"), (1, "succeeded", "m")]),
        (OnContentFilter.FAIL, [(0, "failed", "m@batch"), (1, "failed", "m@batch")]),
    ],
)
async def test_a_row_that_the_content_filter_refused_or_cut_ends_as_the_pool_says(
    db: Database, policy: OnContentFilter, outcomes: list[tuple[object, ...]]
) -> None:
    async with FakeServer() as server:
        models = [
            one.model_copy(update={"on_content_filter": policy}) for one in pool_of(server).models
        ]
        await finish(db, await prepare(db, Pool(models=tuple(models)), ["REFUSE", "CUT"]))
        assert await outcome(db) == outcomes
        codes = await rows(db, "SELECT error_code FROM attempts WHERE model = 'm@batch'")
        assert codes == [("content_filter",)] * 2
        assert await assert_settled(db) == billed_usd(server)


async def test_a_batch_that_fails_as_a_whole_costs_nothing_and_its_jobs_are_called(
    db: Database,
) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": {"status": "failed"}}) as server:
        await finish(db, await prepare(db, pool_of(server), ["a", "b"]))
        assert await outcome(db) == [(0, "succeeded", "m"), (1, "succeeded", "m")]
        assert await assert_settled(db) == billed_usd(server)
        assert "a line is bad" in (await rows(db, "SELECT error FROM provider_batches"))[0][0]


QUEUE_IS_FULL = {
    "code": "token_limit_exceeded",
    "message": "Enqueued token limit reached for m in organization org. Limit: 90,000 enqueued "
    "tokens. Please try again once some in_progress batches have been completed.",
}
AZURE_QUEUE_IS_FULL = {
    "code": "token_limit_exceeded",
    "message": "The number of enqueued tokens has surpassed the configured limit of 30K for the "
    "deployment 'm'. Please either increase the limit or try again once the current jobs have "
    "finished.",
}


@pytest.mark.parametrize(
    "errors",
    [
        {"object": "list", "data": [QUEUE_IS_FULL]},
        [QUEUE_IS_FULL],
        AZURE_QUEUE_IS_FULL,
        "Enqueued token limit reached",
    ],
)
async def test_a_batch_that_failed_for_a_full_queue_is_created_again_of_the_same_file(
    db: Database, errors: object
) -> None:
    script = {"models": {"m": {}}, "batches": {"fail_first": [errors, errors]}}
    async with FakeServer(script) as server:
        await finish(db, await prepare(db, pool_of(server), ["a", "b"]))
        assert await outcome(db) == [(n, "succeeded", "m@batch") for n in (0, 1)]
        assert [one.status for one in server.batches.batches.values()] == [
            *["failed"] * 2,
            "completed",
        ]
        assert {one.input_file_id for one in server.batches.batches.values()} == {"file-1"}
        assert await assert_settled(db) == billed_usd(server)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, QUEUE_IS_FULL),
        (400, {"code": "invalid_request", "message": "Input file file-1 is still pending."}),
        (400, {"message": "The file file-1 with status 'pending' is not yet processed."}),
        (409, {"message": "The input file is being processed"}),
        (429, {"code": "too_many_requests", "message": "Slow down"}),
        (429, {"code": "429", "message": "Maximum number of concurrent jobs exceeded"}),
        (500, {"message": "The server had an error"}),
        (503, {"message": "overloaded"}),
    ],
)
async def test_a_creation_that_is_refused_for_now_is_made_again(
    db: Database, status: int, error: dict[str, Any]
) -> None:
    refusals = [{"status": status, "json": {"error": error}}] * 3
    script = {"models": {"m": {}}, "batches": {"refuse_creates": refusals}}
    async with FakeServer(script) as server:
        await finish(db, await prepare(db, pool_of(server), ["a", "b"]))
        assert (server.batches.creates, len(server.batches.batches)) == (4, 1)
        assert len([name for name in server.batches.files if name.startswith("file-")]) == 1
        assert await outcome(db) == [(n, "succeeded", "m@batch") for n in (0, 1)]
        assert await assert_settled(db) == billed_usd(server)


@pytest.mark.parametrize("error", [QUEUE_IS_FULL, {"message": "The server had an error"}])
async def test_a_creation_is_not_tried_again_once_the_window_has_passed(
    db: Database, error: dict[str, Any]
) -> None:
    refusals = [{"status": 400 if "code" in error else 500, "json": {"error": error}}] * 99
    script = {"models": {"m": {}}, "batches": {"refuse_creates": refusals}}
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), ["a"])
        assert not await take_turn(db, lease)
        await rows(
            db,
            "UPDATE provider_batches SET created_at = now() - interval '25 hours' RETURNING 1",
        )
        await finish(db, await _claim_again(db, lease))
        assert await outcome(db) == [(0, "succeeded", "m")]
        assert await assert_settled(db) == billed_usd(server)


async def test_a_deadline_that_leaves_no_whole_window_ends_the_attempts(db: Database) -> None:
    refusals = [{"status": 400, "json": {"error": QUEUE_IS_FULL}}] * 99
    script = {"models": {"m": {}}, "batches": {"refuse_creates": refusals}}
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), ["a", "b"])
        assert not await take_turn(db, lease)
        await rows(
            db,
            "UPDATE jobs SET deadline = now() + interval '23 hours' WHERE job_no = 1 RETURNING 1",
        )
        await finish(db, await _claim_again(db, lease))
        assert await outcome(db) == [(n, "succeeded", "m") for n in (0, 1)]


async def test_a_file_that_the_provider_forgot_is_uploaded_once_more(db: Database) -> None:
    full, gone = QUEUE_IS_FULL, {"message": "No such File object: file-1"}
    refusals = [
        {"status": 400, "json": {"error": full}},
        {"status": 404, "json": {"error": gone}},
    ]
    script = {"models": {"m": {}}, "batches": {"refuse_creates": refusals}}
    async with FakeServer(script) as server:
        await finish(db, await prepare(db, pool_of(server), ["a"]))
        assert [one.input_file_id for one in server.batches.batches.values()] == ["file-2"]
        assert await outcome(db) == [(0, "succeeded", "m@batch")]


async def test_a_refusal_for_good_is_not_tried_again(db: Database) -> None:
    refusal = {"status": 400, "json": {"error": {"message": "Invalid 'completion_window'"}}}
    script = {"models": {"m": {}}, "batches": {"refuse_creates": [refusal] * 9}}
    async with FakeServer(script) as server:
        await finish(db, await prepare(db, pool_of(server), ["a"]))
        assert server.batches.creates == 1
        assert await outcome(db) == [(0, "succeeded", "m")]


@pytest.mark.parametrize(
    "shape",
    [
        {"wrap": "data"},
        {"wrap": "result"},
        {"prefix": "\ufeff"},
        {"row_status": 0},
        {"row_status": None},
        {"row_status": "200"},
        {"text_bodies": True},
    ],
)
async def test_answers_in_other_providers_shapes_are_read(
    db: Database, shape: dict[str, Any]
) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": shape}) as server:
        await finish(db, await prepare(db, pool_of(server), ["a", "FAIL b"]))
        assert await outcome(db) == [(0, "succeeded", "m@batch"), (1, "succeeded", "m")]
        assert await assert_settled(db) == billed_usd(server)


async def test_files_are_split_at_the_providers_limits(db: Database) -> None:
    async with FakeServer() as server:
        await finish(db, await prepare(db, pool_of(server, max_requests=4), ["x"] * 10))
        assert sorted(one.rows for one in server.batches.batches.values()) == [2, 4, 4]
        assert len(await outcome(db)) == 10


async def test_a_creation_without_an_answer_is_found_by_its_marker(db: Database) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": {"create_delay_s": 1.0}}) as server:
        lease = await prepare(db, pool_of(server), ["a", "b"])
        assert not await take_turn(db, lease, timeout_s=0.2)
        assert (await rows(db, "SELECT state FROM provider_batches")) == [("prepared",)]
        await finish(db, await _claim_again(db, lease))
        assert server.batches.creates == len(server.batches.batches) == 1
        assert await outcome(db) == [(0, "succeeded", "m@batch"), (1, "succeeded", "m@batch")]
        assert await assert_settled(db) == billed_usd(server)


async def test_a_creation_that_was_lost_is_made_again_once(db: Database) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": {"lose_creates": 1}}) as server:
        await finish(db, await prepare(db, pool_of(server), ["a", "b"]))
        assert (server.batches.creates, len(server.batches.batches)) == (2, 1)
        assert await assert_settled(db) == billed_usd(server)


async def test_a_worker_that_dies_before_the_creation_is_noted_sends_no_row_twice(
    db: Database,
) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": {"create_delay_s": 30.0}}) as server:
        lease = await prepare(db, pool_of(server), ["a", "b", "c"])
        dying = asyncio.create_task(take_turn(db, lease, timeout_s=60.0))
        async with asyncio.timeout(PATIENCE_S):
            while not server.batches.batches:
                await asyncio.sleep(0.01)
        dying.cancel()
        await asyncio.gather(dying, return_exceptions=True)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
        await finish(db, await claim(db, lease.key))
        assert len(server.batches.batches) == 1
        assert await rows(db, "SELECT count(*) FROM attempts WHERE status = 'lost'") == [(0,)]
        assert await assert_settled(db) == billed_usd(server)


async def test_an_attempt_that_may_be_under_way_is_not_repeated(db: Database) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": {"lose_creates": 1}}) as server:
        patient = ChannelOptions(poll_s=0.0, longest_poll_s=0.01, create_grace_s=30.0)
        lease = await prepare(db, pool_of(server), ["a"])
        assert not await take_turn(db, lease, options=patient)
        assert not await take_turn(db, await _claim_again(db, lease), options=patient)
        assert server.batches.creates == 1
        waits = await rows(
            db, "SELECT not_before > now() + interval '20 s' FROM shards WHERE stage = 'dispatch'"
        )
        assert waits == [(True,)]


async def test_a_provider_that_takes_no_batches_leaves_its_jobs_to_calls(db: Database) -> None:
    async with FakeServer() as server:
        pool = pool_of(server, base_url=f"{server.base_url}/nowhere")
        await finish(db, await prepare(db, pool, ["a", "b"]))
        assert await outcome(db) == [(0, "succeeded", "m"), (1, "succeeded", "m")]
        assert await assert_settled(db) == billed_usd(server)


async def test_a_cancelled_batch_cancels_the_providers_and_keeps_what_was_answered(
    db: Database,
) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": {"latency_s": 3600.0}}) as server:
        lease = await prepare(db, pool_of(server), [f"NAMED {n}?" for n in range(6)])
        long = ChannelOptions(poll_s=300.0)
        assert not await take_turn(db, lease, options=long)
        batch_id = lease.key.batch_id
        async with db.transaction() as conn:
            await control.cancel(conn, batch_id)
        async with db.transaction() as conn:
            assert not await control.end_cancelled(conn, batch_id)
            assert await leases.due(conn, Stage.DISPATCH, 10) == [lease.key]
        await take_turn(db, await claim(db, lease.key))
        assert server.batches.batches["batch_1"].status == "cancelling"
        await take_turn(db, await _claim_again(db, lease))
        async with db.transaction() as conn:
            assert await batches.status(conn, batch_id) is BatchStatus.CANCELLED
        statuses = await rows(db, "SELECT status, count(*) FROM results GROUP BY 1 ORDER BY 1")
        assert statuses == [("cancelled", 3), ("succeeded", 3)]
        assert await assert_settled(db) == billed_usd(server)


@pytest.mark.parametrize("share", ["0.3", "0.9"])
async def test_no_row_goes_out_beyond_the_budget(db: Database, share: str) -> None:
    async with FakeServer() as server:
        prompts = [f"Question {n}?" for n in range(20)]
        # A row may cost 113 tokens at most, 20 of them to answer: about 0.0023 USD for all.
        budget = Decimal("0.0023") * Decimal(share)
        lease = await prepare(db, pool_of(server), prompts, budget_usd=str(budget))
        assert not await take_turn(
            db, lease, options=ChannelOptions(poll_s=0.0, longest_poll_s=0.0)
        )
        out = sum(one.rows for one in server.batches.batches.values())
        assert 0 < out < 20
        await finish(db, await _claim_again(db, lease))
        assert len(await outcome(db)) == 20
        assert billed_usd(server) <= await assert_settled(db) <= budget
        async with db.transaction() as conn:
            assert (await ledger.balance(conn, lease.key.batch_id)).reserved_usd == 0


async def kept_usd(db: Database) -> tuple[Decimal, Decimal]:
    """Return what is reserved, and what is kept by shards as by their ledger."""
    query = "SELECT l.reserved_usd, l.fallback_usd, s.fallback_usd FROM ledgers l, shards s"
    ((reserved, by_ledger, by_shard),) = await rows(db, f"{query} WHERE s.stage = 'dispatch'")
    assert by_ledger == by_shard
    return reserved, by_ledger


async def keep(db: Database, lease: Lease, count: int) -> None:
    """Keep a thousandth of a dollar for each job, as a plan does while no worker has the shard."""
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.HandedBack())
    async with db.transaction() as conn:
        await budgets.keep_fallbacks(conn, lease.key.batch_id, np.full(count, 0.001))


async def advance(db: Database, lease: Lease) -> None:
    """Take a turn of a worker that dies before it makes a call."""
    owned = await _claim_again(db, lease)
    async with db.transaction() as conn:
        batch = await batches.get(conn, lease.key.batch_id)
    async with ProviderBatches(timeout_s=5.0) as provider:
        channel = ProviderChannel(BatchTracker(db, provider, QUICK, KnownBehaviour()))
        wait_s = await channel.advance(owned, batch)
    async with db.transaction() as conn:
        await shards.finish(conn, owned, shards.HandedBack(wait_s))


async def test_the_money_of_rows_is_held_once_and_pays_for_the_calls_of_those_that_fail(
    db: Database,
) -> None:
    script = {"models": {"m": {}}, "batches": {"latency_s": 1.0, "status": "expired"}}
    prompts = ["fine", "FAIL this", "DROP this", "EXPIRE this"]
    async with FakeServer(script) as server:
        lease = await prepare(db, pool_of(server), prompts, budget_usd="1.0")
        await keep(db, lease, len(prompts))
        assert await kept_usd(db) == (0, Decimal("0.004"))
        await advance(db, lease)
        reserved, kept = await kept_usd(db)
        assert (reserved > 0, kept) == (True, 0)
        async with db.transaction() as conn:  # as a re-plan does
            await budgets.keep_fallbacks(conn, lease.key.batch_id, np.full(4, 0.001))
        assert await kept_usd(db) == (reserved, 0)
        worst = dict(await rows(db, "SELECT job_no, worst_case_usd FROM reservations"))
        async with asyncio.timeout(PATIENCE_S):
            while (await kept_usd(db))[0]:
                await advance(db, lease)
        # That nobody named the third may mean that it was billed.
        assert await kept_usd(db) == (0, worst[1] + worst[3])
        await finish(db, await _claim_again(db, lease))
        called = [(number, "succeeded", "m") for number in (1, 2, 3)]
        assert await outcome(db) == [(0, "succeeded", "m@batch"), *called]
        assert await kept_usd(db) == (0, 0)


async def test_money_stays_kept_for_jobs_whose_rows_the_budget_does_not_cover(
    db: Database,
) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": {"latency_s": 60.0}}) as server:
        lease = await prepare(db, pool_of(server), ["a", "b", "c"], budget_usd="0.0002")
        await keep(db, lease, 3)
        await advance(db, lease)
        assert (await rows(db, "SELECT count(*) FROM reservations"))[0][0] in {1, 2}
        reserved, kept = await kept_usd(db)
        assert reserved > 0
        assert kept > 0


async def test_a_status_that_the_database_cant_hold_costs_nothing(db: Database) -> None:
    async with FakeServer({"models": {"m": {}}, "batches": {"status": "od\0d"}}) as server:
        lease = await prepare(db, pool_of(server), ["a"])
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.HandedBack())
        async with asyncio.timeout(PATIENCE_S):
            while await rows(db, "SELECT provider_status FROM provider_batches") != [
                ("od\ufffdd",)
            ]:
                await advance(db, lease)


async def test_answers_of_a_channel_teach_of_the_model_itself(db: Database) -> None:
    async with FakeServer() as server:
        await finish(db, await prepare(db, pool_of(server), ["a", "b"]))
    graded = (
        "INSERT INTO grades (batch_id, job_no, score, grader) SELECT batch_id, job_no, 1, 'exact'"
    )
    await rows(db, f"{graded} FROM results RETURNING 1")
    async with db.transaction() as conn:
        found = [(one.model, one.latency_s) async for one in grades.iterate_graded(conn)]
    assert found == [("m", None)] * 2


async def found_of_endpoints(db: Database) -> list[tuple[Any, ...]]:
    return await rows(
        db,
        "SELECT limit_field, extra_prompt_tokens, extra_completion_tokens FROM endpoint_behaviour",
    )


async def test_rows_that_were_billed_above_their_bound_raise_it_for_calls_too(
    db: Database,
) -> None:
    script = {"completion_tokens": 520, "limit_fields": []}
    async with FakeServer({"models": {"*": script}}) as server:
        await finish(db, await prepare(db, pool_of(server), ["a", "b"]))
        assert await found_of_endpoints(db) == [(None, 0, 500)]
        overrun = (await rows(db, "SELECT overrun_usd FROM ledgers"))[0][0]
        assert overrun > 0
        lease = await prepare(db, pool_of(server), ["FAIL", "FAIL twice"])
        await finish(db, lease)
        later = "SELECT overrun_usd FROM ledgers WHERE batch_id = %s"
        assert await rows(db, later, lease.key.batch_id) == [(0,)]


async def test_a_row_whose_limit_was_refused_is_called_with_the_other_field(db: Database) -> None:
    refusal = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    async with FakeServer({"models": {"*": {"refuses": {"max_tokens": refusal}}}}) as server:
        await finish(db, await prepare(db, pool_of(server), ["a", "b"]))
        assert [status for _, status, _ in await outcome(db)] == ["succeeded"] * 2
        assert [one.fault for one in server.requests] == [None] * 2
        assert await found_of_endpoints(db) == [("max_completion_tokens", 0, 0)]


async def test_cached_prompt_tokens_of_a_row_cost_what_the_channel_says(db: Database) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 80},
    }
    async with FakeServer({"models": {"*": {"patch": {"usage": usage}}}}) as server:
        tariff = Tariff(prompt=HALF, completion=HALF, cached_prompt=HALF / 10)
        (model,) = (one for one in pool_of(server).models if not one.is_batch_channel)
        channel = BatchChannel(price_usd_per_mtok=tariff)
        pool = Pool(models=(model.model_copy(update={"batch_channel": channel}),))
        await finish(db, await prepare(db, pool.with_batch_channels(), ["a"]))
        assert await assert_settled(db) == (30 * HALF + 80 * HALF / 10) / 1_000_000


async def test_a_row_whose_answer_breaks_a_rule_is_called_like_a_failed_one(db: Database) -> None:
    async with FakeServer({"models": {"m": {"answer": "maybe"}}}) as server:
        lease = await prepare(db, pool_of(server), ["fine", "with a rule"])
        ruled = "UPDATE jobs SET validators = %s WHERE job_no = 1 RETURNING 1"
        await rows(db, ruled, '{"choices": ["yes"]}')
        await finish(db, lease)
        await assert_settled(db)
    found = "SELECT status, model, answer, error_code, attempts FROM results ORDER BY job_no"
    assert await rows(db, found) == [
        ("succeeded", "m@batch", "maybe", None, 1),
        ("failed", "m", "maybe", "validation_failed", 2),
    ]
    calls = "SELECT model, status, error_code FROM attempts WHERE job_no = 1 ORDER BY attempt_no"
    assert await rows(db, calls) == [
        ("m@batch", "failed", "validation_failed"),
        ("m", "succeeded", None),
    ]
