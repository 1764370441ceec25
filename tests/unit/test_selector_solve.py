"""What a selection promises beside its optimality: statuses, ties, advice, exact money."""

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from routoo.errors import InputError
from routoo.selector import Capacity, Problem, SolveStatus, match_model, solve
from routoo.selector.frontier import cost_at_price
from routoo.selector.problem import exact_sum
from tests.unit.selector_baselines import (
    choose_best,
    choose_by_threshold,
    choose_cheapest,
    choose_matched_mix,
    choose_random_mix,
    choose_round_robin,
    choose_single,
    fit_threshold,
    oracle,
    totals,
)

QUALITY = np.array([[0.5, 0.9], [0.6, 0.7]], dtype=np.float32)
COST = np.array([[1.0, 3.0], [1.0, 3.0]])


def _random(jobs: int, models: int = 6, **limits: object) -> Problem:
    rng = np.random.default_rng(7)
    level = np.linspace(0.3, 0.6, models)
    quality = (level + 0.4 * rng.random((jobs, models))).astype(np.float32)
    cost = rng.lognormal(0, 1, (jobs, models)) * np.geomspace(1e-5, 1e-2, models)
    return Problem(quality, cost.astype(np.float32), **limits)  # type: ignore[arg-type]


def test_the_next_dollar_goes_where_it_buys_most() -> None:
    solution = solve(Problem(QUALITY, COST, budget_usd=4))
    assert solution.choice.tolist() == [1, 0]
    assert solution.cost_usd == 4
    assert solution.status is SolveStatus.OPTIMAL


def test_without_a_binding_limit_every_job_has_its_best_model_and_a_dollar_buys_nothing() -> None:
    solution = solve(Problem(QUALITY, COST, budget_usd=100))
    assert solution.choice.tolist() == [1, 1]
    assert solution.status is SolveStatus.UNCONSTRAINED
    assert solution.gap == solution.shadow_price_per_usd == 0


def test_ties_go_to_the_lower_cost_and_then_to_pool_order() -> None:
    same = np.full((1, 4), 0.5, dtype=np.float32)
    cost = np.array([[2.0, 1.0, 1.0, 3.0]])
    assert solve(Problem(same, cost)).choice.tolist() == [1]
    assert solve(Problem(same, cost, budget_usd=2)).choice.tolist() == [1]


def test_a_budget_too_small_says_by_how_much_and_serves_nobody_unless_allowed_to() -> None:
    problem = Problem(QUALITY, COST, budget_usd=Decimal("1.25"))
    solution = solve(problem)
    assert solution.status is SolveStatus.INFEASIBLE
    assert "Raise the budget by 0.75 USD" in solution.advice
    assert solution.choice.tolist() == [-1, -1]
    partial = solve(problem, allow_partial=True)
    assert partial.status is SolveStatus.INFEASIBLE
    assert partial.choice.tolist() == [-1, 0]
    assert partial.unaffordable == 1


def test_the_advised_budget_is_enough() -> None:
    problem = _random(500, budget_usd=0.0)
    advised = Decimal(solve(problem).advice.split("Raise the budget by ")[1].split(" USD")[0])
    again = Problem(problem.quality, problem.cost_usd, budget_usd=advised)
    assert solve(again).feasible


def test_a_job_without_an_allowed_model_gets_none_and_harms_no_other() -> None:
    allowed = np.array([[False, False], [True, True]])
    solution = solve(Problem(QUALITY, COST, allowed, budget_usd=3))
    assert solution.choice.tolist() == [-1, 1]
    assert solution.unaffordable == 0


def test_numbers_of_ruled_out_pairs_may_be_unknown_and_others_not() -> None:
    cost = np.array([[1.0, np.nan], [1.0, 3.0]])
    allowed = np.array([[True, False], [True, True]])
    assert solve(Problem(QUALITY, cost, allowed, budget_usd=4)).choice.tolist() == [0, 1]
    with pytest.raises(InputError, match="cost_usd must be finite"):
        Problem(QUALITY, cost)


@pytest.mark.parametrize(
    "limits",
    [
        {"budget_usd": -1.0},
        {"budget_usd": float("nan")},
        {"willingness_to_pay_usd": 0.0},
        {"min_mean_quality": float("nan")},
        {"capacities": (Capacity("calls", (5,), 1),)},
        {"capacities": (Capacity("calls", (0,), -1),)},
    ],
)
def test_limits_without_a_meaning_are_refused(limits: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Problem(QUALITY, COST, **limits)  # type: ignore[arg-type]


def test_an_empty_batch_is_solved() -> None:
    none = np.empty((0, 2), dtype=np.float32)
    assert solve(Problem(none, none, budget_usd=1)).choice.shape == (0,)


def test_many_jobs_are_solved_within_a_millionth_and_never_over_budget() -> None:
    problem = _random(30_000, budget_usd=9.0)
    solution = solve(problem)
    assert solution.gap < 1e-6
    chosen = problem.cost_usd[np.arange(30_000), solution.choice]
    assert sum(map(Fraction, chosen.tolist())) <= 9
    # Half as far again from the optimum on either side: the shadow price is right.
    more = solve(_random(30_000, budget_usd=9.01))
    assert (more.quality - solution.quality) / 0.01 == pytest.approx(
        solution.shadow_price_per_usd, rel=0.02
    )


def test_matching_a_model_costs_less_than_it_does() -> None:
    problem = _random(3_000)
    target = match_model(problem, 4, 0.98)
    limits = Problem(problem.quality, problem.cost_usd, min_mean_quality=target)
    solution = solve(limits)
    assert solution.mean_quality >= target
    assert solution.cost_usd < 0.98 * float(problem.cost_usd[:, 4].sum())
    assert solution.gap < 1e-4


def test_a_target_and_a_budget_that_exclude_each_other_are_infeasible_with_the_price() -> None:
    solution = solve(Problem(QUALITY, COST, min_mean_quality=0.79, budget_usd=5))
    assert solution.status is SolveStatus.INFEASIBLE
    assert "costs 6 USD" in solution.advice


def test_capacities_hold_at_a_small_loss_of_proof() -> None:
    free = solve(_random(4_000, budget_usd=2.0))
    shares = np.bincount(free.choice, minlength=6)
    limits = (
        Capacity("calls", (2,), int(shares[2] * 0.6)),
        Capacity("both", (3, 4), int((shares[3] + shares[4]) * 0.5)),
    )
    solution = solve(_random(4_000, budget_usd=2.0, capacities=limits))
    counts = np.bincount(solution.choice, minlength=6)
    assert counts[2] <= limits[0].limit
    assert counts[3] + counts[4] <= limits[1].limit
    assert solution.cost_usd <= 2.0
    assert solution.gap < 1e-3
    assert set(solution.shadow_prices) == {"calls", "both"}


def test_capacities_that_leave_no_room_are_infeasible_with_advice() -> None:
    limits = (Capacity("all calls", (0, 1), 1),)
    solution = solve(Problem(QUALITY, COST, capacities=limits))
    assert solution.status is SolveStatus.INFEASIBLE
    assert "raise all calls from 1 by 1" in solution.advice
    partial = solve(Problem(QUALITY, COST, capacities=limits), allow_partial=True)
    assert partial.served == 1


def test_the_router_beats_every_baseline_that_spends_as_much() -> None:
    problem = _random(5_000, budget_usd=3.0)
    solution = solve(problem)
    threshold = fit_threshold(problem, 0, 5)
    others = [
        choose_cheapest(problem),
        choose_random_mix(problem, 3.0, seed=1),
        choose_by_threshold(problem, 0, 5, threshold),
    ]
    for choice in others:
        quality, cost = totals(problem, choice)
        assert cost <= 3.0 * 1.05
        assert quality < solution.quality
    mixed = choose_matched_mix(problem, solution, seed=1)
    assert sorted(mixed) == sorted(solution.choice)
    assert totals(problem, mixed)[0] < solution.quality
    assert totals(problem, choose_best(problem))[0] > solution.quality
    assert totals(problem, choose_single(problem, 0))[1] < 3.0
    assert np.bincount(choose_round_robin(problem)).tolist() == [834, 834, 833, 833, 833, 833]
    scores = (problem.quality > 0.5).astype(np.float32)
    assert (
        solve(oracle(problem, scores)).quality
        >= totals(Problem(scores, problem.cost_usd), solution.choice)[0]
    )


def test_round_robin_skips_models_that_a_job_may_not_have() -> None:
    allowed = np.array([[False, True], [True, False], [False, False]])
    quality, cost = np.zeros((3, 2)), np.zeros((3, 2))
    assert choose_round_robin(Problem(quality, cost, allowed)).tolist() == [1, 0, -1]


def test_a_price_names_the_budget_at_which_it_holds() -> None:
    problem = _random(2_000, budget_usd=1.0)
    solution = solve(problem)
    assert cost_at_price(problem, solution.shadow_price_per_usd) == pytest.approx(1.0, rel=0.02)


def test_sums_are_exact_over_many_orders_of_magnitude() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=3_000) * 10.0 ** rng.integers(-18, 6, 3_000)
    assert exact_sum(values) == sum(map(Fraction, values.tolist()))
    assert exact_sum(np.zeros(3)) == 0


def test_the_selector_starts_without_scipy_or_torch() -> None:
    code = (
        "import sys, routoo.selector, routoo.selector.pool_choice, routoo.selector.explain;"
        "sys.exit(any(name in sys.modules for name in ('scipy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
