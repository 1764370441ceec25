"""The hard budget of a batch against providers that count and obey otherwise than OpenAI."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from routoo.domain.job import SLA
from routoo.domain.pool import Pool, Tariff
from routoo.store.database import Database
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
