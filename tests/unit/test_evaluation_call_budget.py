"""The budget of a collection: hard, whatever order calls end in."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import Completion, Usage
from routoo.domain.endpoint import Endpoint
from routoo.domain.items import Item
from routoo.domain.pool import CandidateModel, Tariff
from routoo.domain.prompt import bound_cost_usd
from routoo.errors import (
    BudgetExhaustedError,
    EndpointTimeoutError,
    InputError,
    RateLimitedError,
    RequestRejectedError,
)
from routoo.evaluation.answer_log import AnswerLog
from routoo.evaluation.call_budget import BudgetedClient, SpendingLog
from routoo.evaluation.collect import Collection, RequestForm, ask_evenly
from routoo.evaluation.item_grading import check_referenced
from tests.fakes.permit import OpenPermit

BODY = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 10}
MODEL = CandidateModel(
    name="m",
    endpoint=Endpoint(base_url="http://endpoint.test/v1", max_concurrency=4),
    price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1000)),
    context_window_tokens=4096,
    max_completion_tokens=10,
)
WORST_USD = bound_cost_usd(BODY, MODEL)


class Endpoints:
    """Ends each call as a list says: with a number of tokens, or with an error."""

    def __init__(self, ends: list[int | Exception]) -> None:
        self.behaviour = KnownBehaviour()
        self.ends, self.calls, self.open = iter(ends), 0, 0
        self.most_open_usd = self.billed_usd = Decimal(0)

    @asynccontextmanager
    async def admit(
        self, model: CandidateModel, _tokens: int, *, retry: bool = False
    ) -> AsyncIterator[OpenPermit]:
        del retry
        yield OpenPermit(model)

    async def look_again(self) -> None:
        """Nothing is denied."""

    def absence(self, _model: CandidateModel) -> None:
        return None

    def queue_s(self, _model: CandidateModel) -> float:
        return 0.0

    async def complete(
        self, model: CandidateModel, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        del timeout_s
        self.calls += 1
        self.open += 1
        exposed = self.billed_usd + self.open * bound_cost_usd(body, model)
        self.most_open_usd = max(self.most_open_usd, exposed)
        await asyncio.sleep(0)
        self.open -= 1
        end = next(self.ends, 3)
        if isinstance(end, Exception):
            if getattr(end, "maybe_billed", False):
                self.billed_usd += bound_cost_usd(body, model)
            raise end
        usage = Usage(20, end)
        self.billed_usd += model.cost_usd(20, end)
        return Completion("4", {}, usage, 200, 0.1)


ENDS = st.lists(
    st.integers(0, 10)
    | st.sampled_from([EndpointTimeoutError("late"), RequestRejectedError("no")]),
    max_size=30,
)


@settings(deadline=None)
@given(ends=ENDS, calls=st.integers(1, 5).map(Decimal), share=st.decimals(0, 1, places=2))
def test_what_is_billed_and_what_may_be_never_exceed_the_budget(
    ends: list[int | Exception], calls: Decimal, share: Decimal
) -> None:
    limit_usd = WORST_USD * (calls + share)
    endpoints = Endpoints(ends)

    async def run() -> BudgetedClient:
        client = BudgetedClient(endpoints, limit_usd)
        asked = [client.complete(MODEL, BODY) for _ in range(30)]
        await asyncio.gather(*asked, return_exceptions=True)
        return client

    client = asyncio.run(run())
    assert endpoints.most_open_usd <= limit_usd
    assert client.spent_usd == endpoints.billed_usd
    # It stops only once the worst case of one more call does not fit.
    assert endpoints.calls == 30 or client.spent_usd + WORST_USD > limit_usd


def test_calls_wait_for_money_that_calls_in_flight_may_leave() -> None:
    endpoints = Endpoints([0] * 9)

    async def run() -> None:
        client = BudgetedClient(endpoints, WORST_USD)
        await asyncio.gather(*(client.complete(MODEL, BODY) for _ in range(5)))

    with pytest.raises(BudgetExhaustedError, match="Raise --budget-usd"):
        asyncio.run(run())
    assert endpoints.calls >= 1


def test_a_call_that_was_refused_costs_nothing() -> None:
    endpoints = Endpoints([RateLimitedError("slow down"), RequestRejectedError("no"), 5])

    async def run() -> BudgetedClient:
        client = BudgetedClient(endpoints, WORST_USD)
        for _ in range(2):
            with pytest.raises((RateLimitedError, RequestRejectedError)):
                await client.complete(MODEL, BODY)
        await client.complete(MODEL, BODY)
        return client

    assert asyncio.run(run()).spent_usd == MODEL.cost_usd(20, 5)


def test_a_collection_says_what_it_will_cost_and_what_it_did_not_ask(tmp_path: Path) -> None:
    items = [Item(f"q{n}", "Why?", answer="4", max_tokens=10) for n in range(20)]
    endpoints = Endpoints([])

    async def run() -> None:
        client = BudgetedClient(endpoints, Decimal("0.04"))
        with AnswerLog(tmp_path / "log") as log:
            collection = Collection(client, log, RequestForm())
            estimate = collection.estimate(items, [MODEL])
            assert estimate.calls == 20
            assert estimate.prompts_usd < estimate.worst_usd
            failures = await collection.run(items, [MODEL])
            assert {failure.code for failure in failures} == {"budget_exhausted"}
            assert 0 < len(failures) < 20
            assert collection.estimate(items, [MODEL]).calls == len(failures)

    asyncio.run(run())
    assert endpoints.billed_usd <= Decimal("0.04")


def test_a_short_budget_asks_all_models_the_same_items_and_counts_what_a_kill_left_open(
    tmp_path: Path,
) -> None:
    items = [Item(f"q{n}", "Why?", answer="4", max_tokens=10) for n in range(200)]
    models = [MODEL, MODEL.model_copy(update={"name": "dear", "max_completion_tokens": 9})]
    endpoints, budget_usd = Endpoints([]), Decimal("0.5")

    async def run(spending: SpendingLog) -> dict[str, int]:
        client = BudgetedClient(endpoints, budget_usd, spending)
        with AnswerLog(tmp_path / "log") as log:
            collection = Collection(client, log, RequestForm())
            assert await ask_evenly(collection, client, items, models, budget_usd) == []
            answered = [
                (item, model)
                for item in items
                for model in models
                if collection.answered(item, model)
            ]
        assert client.spent_usd <= budget_usd
        return {one.name: sum(model is one for _, model in answered) for one in models}

    spending = SpendingLog(tmp_path / "spending")
    spending.reserve(Decimal("0.1"))  # in flight when its process was killed
    spending.close()
    counts = asyncio.run(run(again := SpendingLog(tmp_path / "spending")))
    again.close()
    assert endpoints.billed_usd <= Decimal("0.4")
    assert abs(counts[MODEL.name] - counts["dear"]) <= 1
    assert counts["dear"] > 40
    last = SpendingLog(tmp_path / "spending")
    assert last.spent_usd == endpoints.billed_usd + Decimal("0.1")
    last.close()


def test_items_without_a_reference_are_refused_before_they_cost_anything() -> None:
    items = [Item("a", "Why?", answer="4"), Item("b", "Why?")]
    with pytest.raises(InputError, match=r"1 of 2 items have no reference.*--ungraded"):
        check_referenced(items)
