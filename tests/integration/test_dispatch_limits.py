"""Limits of tokens that rows don't name, and budgets that cover few calls at a time."""

from decimal import Decimal
from typing import Any

import pytest

from routoo.domain.batch_options import CallOptions
from routoo.domain.pool import Pool, Tariff
from routoo.store.database import Database
from tests.dispatch_factory import dispatch, pool_of, prepare, rows
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

NO_LIMIT = {"max_tokens": None}
LONG = " ".join(["word"] * 200)


def priced(server: FakeServer, **changes: Any) -> Pool:
    """Return a pool of a weak model and of one whose answers cost up to a cent and a half."""
    prices = {"small": "0.1", "large": "15"}
    return Pool(
        models=tuple(
            model.model_copy(
                update={
                    "price_usd_per_mtok": Tariff(
                        prompt=Decimal("0.1"), completion=Decimal(prices[model.name])
                    ),
                    **changes,
                }
            )
            for model in pool_of(server).models
        )
    )


async def answering(db: Database) -> list[tuple[Any, ...]]:
    query = "SELECT model, status, reason, count(*) FROM results GROUP BY 1, 2, 3 ORDER BY 4 DESC"
    return await rows(db, query)


@pytest.mark.parametrize(
    ("count", "budget", "own"),
    [
        (500, "0.05", None),  # the pool's limit of 1,024 tokens would reserve $0.0154 a call
        (60, "0.01", None),
        (60, "0.03", 1024),
    ],
)
async def test_a_batch_ends_as_planned_whenever_expected_costs_hold(
    db: Database, count: int, budget: str, own: int | None
) -> None:
    script = {"models": {"*": {"completion_tokens": 5, "latency_s": 0.005}}}
    async with FakeServer(script) as server:
        body = {"max_tokens": own}
        lease = await prepare(
            db, priced(server), count, model=None, budget_usd=Decimal(budget), body=body
        )
        (plan,) = await rows(db, "SELECT plan -> 'models' -> 1 ->> 'jobs' FROM batches")
        assert plan == (str(count),)
        assert await dispatch(db, lease)
        assert await answering(db) == [("large", "succeeded", None, count)]
        ((reserved, spent, overrun),) = await rows(
            db, "SELECT reserved_usd, spent_usd, overrun_usd FROM ledgers"
        )
        assert (reserved, overrun) == (0, 0)
        assert spent <= Decimal(budget)
        sent = {request.max_tokens for request in server.requests}
        assert sent == {own or 84}


async def test_an_answer_that_a_limit_of_ours_cut_is_asked_again_with_the_pools(
    db: Database,
) -> None:
    async with FakeServer({"models": {"*": {"answer": LONG}}}) as server:
        lease = await prepare(db, pool_of(server), 3, body=NO_LIMIT)
        assert await dispatch(db, lease)
        assert await answering(db) == [("small", "succeeded", None, 3)]
        assert [request.max_tokens for request in server.requests].count(84) == 3
        found = await rows(db, "SELECT DISTINCT answer, attempts, cost_usd FROM results")
        assert [(len(answer.split()), tries) for answer, tries, _ in found] == [(200, 2)]
        both = await rows(
            db,
            "SELECT status, error_code, completion_tokens FROM attempts WHERE job_no = 0"
            " ORDER BY attempt_no",
        )
        assert both == [("failed", "answer_cut", 84), ("succeeded", None, 200)]
        (cost,) = await rows(db, "SELECT sum(cost_usd) FROM attempts WHERE job_no = 0")
        assert found[0][2] == cost[0]


@pytest.mark.parametrize(("own", "batch"), [(50, None), (None, 50)])
async def test_an_answer_that_reaches_a_limit_its_owner_set_is_delivered(
    db: Database, own: int | None, batch: int | None
) -> None:
    async with FakeServer({"models": {"*": {"answer": LONG}}}) as server:
        options = CallOptions(max_completion_tokens=batch)
        body = {"max_tokens": own}
        lease = await prepare(db, pool_of(server), 2, body=body, call_options=options)
        assert await dispatch(db, lease)
        assert {request.max_tokens for request in server.requests} == {50}
        assert await answering(db) == [("small", "succeeded", None, 2)]


async def test_a_raised_limit_is_lowered_to_what_the_money_covers(db: Database) -> None:
    async with FakeServer({"models": {"*": {"answer": LONG}}}) as server:
        # A first call reserves about $0.0002, one with the pool's limit of 1,024 tokens $0.0011.
        lease = await prepare(db, pool_of(server), 1, body=NO_LIMIT, budget_usd=Decimal("0.0006"))
        assert await dispatch(db, lease)
        assert await answering(db) == [("small", "succeeded", None, 1)]
        first, second = (request.max_tokens for request in server.requests)
        assert first == 84
        assert 200 < second < 1024


async def test_a_job_whose_answers_stay_cut_says_so(db: Database) -> None:
    async with FakeServer({"models": {"*": {"answer": LONG}}}) as server:
        lease = await prepare(db, pool_of(server), 1, body=NO_LIMIT, budget_usd=Decimal("0.00028"))
        assert await dispatch(db, lease)
        ((model, status, _, _),) = await answering(db)
        assert (model, status) == ("large", "budget_exhausted")
        ((code, message),) = await rows(db, "SELECT error_code, error_message FROM results")
        assert code == "budget_exhausted"
        assert message.startswith("a call to small may cost $")
        assert message.endswith("left; raise budget_usd or lower max_tokens")
