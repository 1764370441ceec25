"""Four dispatcher processes, one endpoint: its limits and the budget hold over all of them."""

from decimal import Decimal

from tests.integration.dispatch_proof import Run, dispatch


def test_four_dispatchers_keep_an_endpoints_limits_through_every_fault(database_url: str) -> None:
    run = Run(jobs=1_000)
    seen = dispatch(database_url, run)
    assert seen.statuses == {"succeeded": 1_000}
    assert seen.calls > 1_000
    assert seen.most_in_flight <= run.concurrency
    assert seen.most_calls_a_span <= run.calls_per_span
    assert seen.most_tokens_a_span <= run.tokens_per_span
    assert seen.billed_usd <= seen.spent_usd
    assert seen.reserved_usd == 0


def test_four_dispatchers_stay_within_a_budget_that_ends_early(database_url: str) -> None:
    budget_usd = Decimal("0.004")
    seen = dispatch(database_url, Run(jobs=200, budget_usd=budget_usd))
    assert sum(seen.statuses.values()) == 200
    assert set(seen.statuses) == {"succeeded", "budget_exhausted"}
    assert seen.billed_usd <= seen.spent_usd <= budget_usd
    assert seen.reserved_usd == 0
