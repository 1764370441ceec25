"""The hard budget of a batch against providers that count and obey otherwise than OpenAI."""

from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from rich.console import Console

from producer.progress import take_snapshot
from producer.screen.progress import progress_view
from routoo.domain.completion import Reservation
from routoo.domain.endpoint import LimitField
from routoo.domain.job import SLA
from routoo.domain.pool import Pool, Tariff
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.store import batches, ledger
from routoo.store.database import Database
from routoo.store.lost_calls import write_off
from tests.batch_factory import attempt
from tests.dispatch_factory import dispatch, pool_of, prepare, rows
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

ALONE = SLA(allowed_models=("small",))
PRICE = Tariff(prompt=Decimal(1000), completion=Decimal(1000))


def dear(server: FakeServer, **changes: Any) -> Pool:
    """Return a pool whose models take a tenth of a cent for each token."""
    models = pool_of(server).models
    changed = {"price_usd_per_mtok": PRICE, **changes}
    return Pool(models=tuple(model.model_copy(update=changed) for model in models))


def billed_usd(server: FakeServer) -> Decimal:
    tokens = sum(one.prompt_tokens + one.completion_tokens for one in server.requests)
    return Decimal(tokens) / 1000


async def books(db: Database) -> tuple[Decimal, Decimal, Decimal]:
    """Return what the ledger says is reserved, spent, and billed beyond what was reserved."""
    (found,) = await rows(db, "SELECT reserved_usd, spent_usd, overrun_usd FROM ledgers")
    return found[0], found[1], found[2]


async def statuses(db: Database) -> Mapping[str, int]:
    return dict(await rows(db, "SELECT status, count(*) FROM results GROUP BY 1"))


async def test_reasoning_beside_the_answer_is_paid_and_ends_the_budget(db: Database) -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "total_tokens": 525,
        "completion_tokens_details": {"reasoning_tokens": 500},
    }
    async with FakeServer({"models": {"*": {"patch": {"usage": usage}}}}) as server:
        body = {"max_tokens": 600}
        lease = await prepare(db, dear(server), 20, budget_usd=Decimal(2), body=body, sla=ALONE)
        assert await dispatch(db, lease)
        assert await books(db) == (0, billed_usd(server), 0)
        assert billed_usd(server) == Decimal("0.525") * len(server.requests)
        assert Decimal("0.525") < billed_usd(server) <= 2
        assert (await statuses(db))["budget_exhausted"] == 20 - len(server.requests)


async def test_cached_prompt_tokens_cost_their_own_price(db: Database) -> None:
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "prompt_tokens_details": {"cached_tokens": 80},
    }
    price = Tariff(prompt=Decimal(1000), cached_prompt=Decimal(100), completion=Decimal(2000))
    async with FakeServer({"models": {"*": {"patch": {"usage": usage}}}}) as server:
        pool = dear(server, price_usd_per_mtok=price)
        assert await dispatch(db, await prepare(db, pool, 3, sla=ALONE))
        found = await rows(
            db, "SELECT DISTINCT prompt_tokens, cached_prompt_tokens, cost_usd FROM attempts"
        )
        assert found == [(100, 80, Decimal("0.048"))]
        assert (await books(db))[1] == Decimal("0.144")


async def test_an_impossible_count_fails_its_own_call_only(db: Database) -> None:
    fault = {
        "kind": "patch",
        "containing": "number 2",
        "json": {"usage": {"prompt_tokens": 4294967295}},
    }
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        assert await dispatch(db, await prepare(db, dear(server), 5, sla=ALONE))
        assert await statuses(db) == {"succeeded": 4, "failed": 1}
        (error,) = await rows(db, "SELECT error_message FROM results WHERE status = 'failed'")
        assert "prompt_tokens is 4294967295" in error[0]


async def test_a_file_is_reserved_at_its_bound(db: Database) -> None:
    content = [{"type": "text", "text": "Sum up."}, {"type": "file", "file": {"file_id": "f"}}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 20}
    async with FakeServer({"models": {"*": {"part_tokens": {"file": 5000}}}}) as server:
        pool = dear(server, part_prompt_tokens=(("file", 5000),), context_window_tokens=20_000)
        lease = await prepare(db, pool, 8, budget_usd=Decimal(12), body=body, sla=ALONE)
        assert await dispatch(db, lease)
        assert len(server.requests) == 2
        assert await books(db) == (0, billed_usd(server), 0)


async def behaviour(db: Database) -> list[tuple[Any, ...]]:
    return await rows(
        db,
        "SELECT limit_field, extra_prompt_tokens, extra_completion_tokens FROM endpoint_behaviour",
    )


async def test_a_limit_goes_into_the_field_that_the_endpoint_reads(db: Database) -> None:
    script = {"completion_tokens": 3600, "limit_fields": ["max_tokens"]}
    async with FakeServer({"models": {"*": script}}) as server:
        body = {"max_tokens": None, "max_completion_tokens": 10}
        lease = await prepare(db, dear(server), 4, budget_usd=Decimal(2), body=body, sla=ALONE)
        assert await dispatch(db, lease)
        assert await statuses(db) == {"succeeded": 4}
        assert {one.completion_tokens for one in server.requests} == {10}
        assert await books(db) == (0, billed_usd(server), 0)
        assert await behaviour(db) == []


OTHER_FIELD = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."


async def test_a_refused_limit_field_is_learned_and_kept(db: Database) -> None:
    script = {"refuses": {"max_tokens": OTHER_FIELD}, "limit_fields": ["max_completion_tokens"]}
    async with FakeServer({"models": {"*": script}}) as server:
        assert await dispatch(db, await prepare(db, dear(server), 20, sla=ALONE))
        assert await statuses(db) == {"succeeded": 20}
        assert await rows(db, "SELECT max(attempts), count(*) FROM results") == [(1, 20)]
        refused = [one for one in server.requests if one.fault]
        assert 1 <= len(refused) <= 8  # one for each call that was in flight already
        assert await behaviour(db) == [("max_completion_tokens", 0, 0)]
        server.requests.clear()
        # By another client, which knows it from the store.
        assert await dispatch(db, await prepare(db, dear(server), 5, sla=ALONE))
        assert [one.fault for one in server.requests] == [None] * 5


async def test_an_endpoint_without_a_limit_is_reserved_at_the_pools(db: Database) -> None:
    refusal = {"status": 422, "json": {"detail": [{"msg": "extra fields not permitted"}]}}
    detail = refusal["json"]["detail"][0]
    script = {
        "refuses": {
            name: {
                "status": 422,
                "json": {"detail": [{"loc": ["body", name], **detail}]},
            }
            for name in ("max_tokens", "max_completion_tokens")
        },
        "completion_tokens": 1000,
    }
    async with FakeServer({"models": {"*": script}}) as server:
        lease = await prepare(db, dear(server), 8, budget_usd=Decimal("2.3"), sla=ALONE)
        assert await dispatch(db, lease)
        assert await behaviour(db) == [("none", 0, 0)]
        assert (await books(db))[2] == 0
        assert billed_usd(server) <= Decimal("2.3")
        assert (await statuses(db))["succeeded"] == 2


async def test_a_bill_above_its_reservation_raises_the_bound_of_all_later_calls(
    db: Database,
) -> None:
    script = {"completion_tokens": 3600, "limit_fields": [], "latency_s": 0.05}
    async with FakeServer({"models": {"*": script}}) as server:
        pool, body = dear(server), {"max_tokens": 10}
        lease = await prepare(db, pool, 40, budget_usd=Decimal("0.5"), body=body, sla=ALONE)
        assert await dispatch(db, lease)
        sent = len(server.requests)
        assert 1 <= sent <= 8  # what was in flight before the first answer
        reserved, spent, overrun = await books(db)
        assert (reserved, spent + overrun) == (0, billed_usd(server))
        assert await statuses(db) == {"succeeded": sent, "budget_exhausted": 40 - sent}
        assert await behaviour(db) == [(None, 0, 3590)]
        # Another batch reserves what was seen, and so keeps its budget.
        lease = await prepare(db, pool, 5, budget_usd=Decimal(8), body=body, sla=ALONE)
        assert await dispatch(db, lease)
        assert len(server.requests) == sent + 2


async def test_an_absurd_bill_does_not_keep_its_endpoint_from_other_batches(db: Database) -> None:
    usage = {"usage": {"prompt_tokens": 2_000_000_000}}
    fault = {"kind": "patch", "containing": "number 0", "json": usage}
    async with FakeServer({"models": {"*": {"faults": [fault]}}}) as server:
        assert await dispatch(db, await prepare(db, dear(server), 1, sla=ALONE))
        assert await behaviour(db) == [(None, 4096, 0)]


async def test_status_tells_what_an_endpoint_does_otherwise_than_its_pool_says(
    db: Database,
) -> None:
    script = {
        "completion_tokens": 3600,
        "limit_fields": [],
        "refuses": {"max_tokens": OTHER_FIELD},
    }
    async with FakeServer({"models": {"*": script}}) as server:
        lease = await prepare(db, dear(server), 1, body={"max_tokens": 10}, sla=ALONE)
        assert await dispatch(db, lease)
        async with db.transaction() as conn:
            batch = await batches.get(conn, lease.key.batch_id)
            snapshot = await take_snapshot(conn, batch)
    (found,) = snapshot.as_json()["endpoints"]
    assert found["model"] == "small"
    assert found["limit_field"] == "max_completion_tokens"
    assert found["extra_completion_tokens"] == 3590
    console = Console(width=200)
    with console.capture() as capture:
        console.print(progress_view(snapshot))
    screen = capture.get()
    assert "billed up to 3,590 completion tokens beyond the bound of a call" in screen
    assert "takes its limit from max_completion_tokens" in screen
    assert "were billed beyond what was reserved" in screen


async def test_a_call_that_is_reserved_anew_holds_the_new_amount_only(db: Database) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, dear(server), 1, sla=ALONE)
    async with GroupCommit(db, lease) as commit:
        await commit.reserve(Reservation(0, 1, "small", Decimal(1)))
        commit.release(0, 1)
        await commit.reserve(Reservation(0, 1, "small", Decimal(3)))
        assert (await books(db))[0] == 3


async def test_a_field_that_the_pool_names_wrongly_fails_the_row_with_the_remedy(
    db: Database,
) -> None:
    async with FakeServer({"models": {"*": {"refuses": {"max_tokens": OTHER_FIELD}}}}) as server:
        models = dear(server).models
        stated = {"completion_limit_field": LimitField.MAX_TOKENS}
        pool = Pool(
            models=tuple(
                one.model_copy(update={"endpoint": one.endpoint.model_copy(update=stated)})
                for one in models
            )
        )
        assert await dispatch(db, await prepare(db, pool, 1, sla=ALONE))
        (found,) = await rows(db, "SELECT error_code, error_message FROM results")
        assert found[0] == "limit_field_refused"
        assert "Correct completion_limit_field of the endpoint in the pool" in found[1]
        assert len(server.requests) == 1


async def test_of_calls_that_a_crash_hid_only_those_that_may_have_been_sent_are_paid(
    db: Database,
) -> None:
    async with FakeServer() as server:
        lease = await prepare(db, dear(server), 4, sla=ALONE, budget_usd=Decimal(20))
    turns = dict.fromkeys(range(4), False)
    async with GroupCommit(db, lease) as commit:
        for number in range(4):
            wanted = Reservation(number, 1, "small", Decimal(1 + number))
            await commit.reserve(wanted, partial(turns.__getitem__, number))
        await commit.allow_sending(1, 1)  # it has a slot
        turns[2] = True  # it may start during the next commit
        commit.settle(attempt(1, "0.5"))
        await commit.allow_sending(2, 1)
        commit.release(3, 1)
    async with db.transaction() as conn:
        assert await write_off(conn, lease) == 1
        balance = await ledger.balance(conn, lease.key.batch_id)
    assert (balance.reserved_usd, balance.spent_usd) == (Decimal(0), Decimal("3.5"))
    lost = "SELECT job_no, cost_usd FROM attempts WHERE status = 'lost'"
    assert await rows(db, lost) == [(2, Decimal(3))]
