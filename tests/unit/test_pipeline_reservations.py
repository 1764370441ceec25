"""Plans whose calls can be reserved, and the limits of tokens that reservations rest on."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.prediction import NO_EXPERIENCE, ModelExperience
from routoo.pipeline.select.estimates import completion_limits
from routoo.pipeline.select.probes import PosedProblem
from routoo.pipeline.select.problem import choose_payable, needed_usd
from routoo.selector.problem import Problem

POOL = Pool(
    models=(
        CandidateModel(
            name="only",
            endpoint=Endpoint(base_url="http://localhost:1/v1"),
            price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
            context_window_tokens=4096,
        ),
    )
)


def problem(jobs: int, budget_usd: float) -> Problem:
    """Return a problem of a model that costs a cent and one that costs ten."""
    quality = np.tile(np.array([0.5, 0.9]), (jobs, 1))
    return Problem(quality, np.tile([0.01, 0.1], (jobs, 1)), budget_usd=budget_usd)


def reserves(jobs: int) -> np.ndarray:
    return np.tile(np.array([0.05, 0.5], np.float32), (jobs, 1))


def test_the_budget_leaves_what_the_last_call_reserves() -> None:
    solution = choose_payable(PosedProblem.without_probes(problem(10, 1.4)), reserves(10))
    assert np.count_nonzero(solution.choice == 1) == 10
    tight = choose_payable(PosedProblem.without_probes(problem(10, 1.1)), reserves(10))
    assert tight.served == 10
    assert 0 < np.count_nonzero(tight.choice == 1) < 10
    assert needed_usd(tight, problem(10, 1.1), reserves(10)) <= 1.1


def test_no_job_is_given_a_model_that_the_whole_budget_can_not_reserve() -> None:
    solution = choose_payable(PosedProblem.without_probes(problem(4, 0.45)), reserves(4))
    assert solution.choice.tolist() == [0] * 4
    assert solution.unaffordable == 0


def test_jobs_that_reservations_leave_out_are_counted_with_the_budget_that_serves_them() -> None:
    solution = choose_payable(PosedProblem.without_probes(problem(10, 0.06)), reserves(10))
    assert (solution.served, solution.unaffordable) == (2, 8)
    assert "at least 0.14" in solution.advice
    assert choose_payable(PosedProblem.without_probes(problem(10, 0.14)), reserves(10)).served == 10


@given(
    budget_usd=st.floats(0, 2),
    costs=st.lists(st.floats(0.001, 0.2), min_size=1, max_size=8),
    factor=st.floats(1, 20),
)
def test_what_is_planned_can_be_reserved_in_turn(
    budget_usd: float, costs: list[float], factor: float
) -> None:
    cost = np.array([[one, 3 * one] for one in costs])
    posed = Problem(np.tile([0.5, 0.9], (len(costs), 1)), cost, budget_usd=budget_usd)
    reserve = (factor * cost).astype(np.float32)
    solution = choose_payable(PosedProblem.without_probes(posed), reserve)
    left = budget_usd * (1 + 1e-6)
    served = np.flatnonzero(solution.choice >= 0)
    order = sorted(served, key=lambda row: -reserve[row, solution.choice[row]])
    for row in order:
        assert reserve[row, solution.choice[row]] <= left + 1e-9
        left -= cost[row, solution.choice[row]]


@pytest.mark.parametrize(
    ("own", "predicted", "batch", "expected"),
    [
        (20.0, 5.0, None, 20),
        (np.nan, 5.0, None, 84),
        (np.nan, 300.0, None, 1024),
        (np.nan, 5.0, 50, 50),
        (20.0, 5.0, 50, 20),
    ],
)
def test_a_limit_is_the_requests_own_or_the_batchs_or_follows_the_prediction(
    own: float, predicted: float, batch: int | None, expected: int
) -> None:
    tokens = np.array([[predicted]], np.float32)
    limit = completion_limits(np.array([own]), POOL, tokens, [NO_EXPERIENCE], batch)
    assert limit.tolist() == [[expected]]


def test_a_limit_follows_what_earlier_answers_took() -> None:
    known = [ModelExperience(completion_factor=2.0)]
    limit = completion_limits(np.array([np.nan]), POOL, np.float32([[10.0]]), known)
    assert limit.tolist() == [[144]]
