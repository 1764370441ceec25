"""What endpoints can carry out until a deadline."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.prediction import ModelExperience
from routoo.pipeline.select.capacity import USABLE_SHARE, Demand, endpoint_capacities
from routoo.pipeline.select.problem import choose
from routoo.selector.problem import Problem
from routoo.selector.solution import SolveStatus

JOBS = 100
TEN_MINUTES_S = 600.0


def candidate(name: str, served_as: str | None = None, **limits: Any) -> CandidateModel:
    return CandidateModel(
        name=name,
        endpoint=Endpoint(base_url="http://localhost:1/v1", model=served_as, **limits),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
        context_window_tokens=4096,
    )


def capacities_of(
    *models: CandidateModel, experience: Mapping[str, ModelExperience] | None = None
) -> tuple[Any, ...]:
    known = experience or {}
    latency = [known[model.name].base_s if model.name in known else np.nan for model in models]
    shape = (JOBS, len(models))
    demand = Demand(
        np.full(shape, 300, np.float32), np.tile(np.array(latency, np.float32), (JOBS, 1))
    )
    return endpoint_capacities(Pool(models=models), demand, known, TEN_MINUTES_S)


def test_an_endpoint_without_limits_or_known_latency_limits_nothing() -> None:
    assert capacities_of(candidate("a")) == ()


def test_rates_times_the_time_left_limit_calls_and_tokens() -> None:
    requests, tokens = capacities_of(
        candidate("a", requests_per_minute=5, tokens_per_minute=1000), candidate("b")
    )
    assert (requests.limit, requests.options, requests.use) == (45.0, (0,), None)
    assert tokens.limit == pytest.approx(10 * 1000 * USABLE_SHARE)
    assert tokens.use[0, 0] == 300


def test_candidates_of_one_endpoint_share_its_least_limit() -> None:
    shared = [
        candidate("a", "x", requests_per_minute=5),
        candidate("b", "x", requests_per_minute=9),
        candidate("c", "y", requests_per_minute=7),
    ]
    first, second = capacities_of(*shared)
    assert (first.options, first.limit) == ((0, 1), 45.0)
    assert (second.options, second.limit) == ((2,), 63.0)


def test_several_endpoints_of_a_candidate_add_up_and_what_is_shared_is_counted_once() -> None:
    first, second = (
        Endpoint(base_url=f"http://{host}/v1", model="x", requests_per_minute=rate)
        for host, rate in (("one", 5), ("two", 10))
    )
    both = candidate("both").model_copy(update={"endpoint": first, "endpoints": (first, second)})
    one = candidate("one").model_copy(update={"endpoint": first})
    found = {item.options: item.limit for item in capacities_of(both, one)}
    assert found == {(0, 1): 135.0, (1,): 45.0}


def test_concurrency_limits_the_seconds_that_calls_hold_a_slot() -> None:
    slow = {"a": ModelExperience(base_s=10.0, per_completion_token_s=0.0, tail_factor=1.5)}
    (held,) = capacities_of(candidate("a", max_concurrency=2), candidate("b"), experience=slow)
    assert held.options == (0,)
    assert held.limit == pytest.approx(2 * TEN_MINUTES_S * USABLE_SHARE)
    assert held.use[0].tolist() == [15.0, 0.0]


def problem_of(*models: CandidateModel) -> Problem:
    quality = np.tile(np.array([0.9, 0.5], np.float32), (JOBS, 1))
    cost = np.tile(np.array([2.0, 1.0]), (JOBS, 1))
    capacities = capacities_of(*models)
    return Problem(quality, cost, budget_usd=1000, capacities=capacities)


def test_a_plan_gives_an_endpoint_no_more_than_it_can_take_in_time() -> None:
    solution = choose(problem_of(candidate("best", requests_per_minute=5), candidate("other")))
    assert np.count_nonzero(solution.choice == 0) == 45
    assert solution.feasible
    (price,) = solution.shadow_prices.values()
    assert price == pytest.approx(0.4, abs=1e-3)


def test_jobs_beyond_every_endpoints_reach_are_sent_all_the_same_and_the_plan_says_so() -> None:
    solution = choose(
        problem_of(
            candidate("best", requests_per_minute=5), candidate("other", requests_per_minute=2)
        )
    )
    assert solution.status is SolveStatus.INFEASIBLE
    assert "requests" in solution.advice
    assert solution.served == JOBS
    assert solution.unaffordable == 0
