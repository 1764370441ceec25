"""The selector against brute force and HiGHS, on small problems."""

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from random import Random
from unittest.mock import patch

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from routoo.selector import Capacity, Problem, SolveStatus, solve
from routoo.selector.frontier import frontier
from routoo.selector.solvers.lagrangian import price_path
from tests.unit.selector_cases import every_choice, exact_cost, problems, served

EPS = 1e-9
BUDGETS = st.sampled_from([0.0, 0.3, 0.5, 0.6, 1.0, 1.5, Decimal("0.3"), 2.0, 3.75, 8.0])
quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _optimum(problem: Problem) -> Fraction | None:
    budget = problem.exact_budget_usd
    fitting = [quality for _, quality, cost in every_choice(problem) if cost <= budget]
    return max(fitting, default=None)


@quick
@given(problems(budget_usd=BUDGETS))
def test_a_budget_is_met_exactly_whenever_it_can_be(problem: Problem) -> None:
    best, solution = _optimum(problem), solve(problem)
    if best is None:
        assert solution.status is SolveStatus.INFEASIBLE
        assert "Raise the budget by" in solution.advice
        return
    assert solution.feasible
    assert exact_cost(problem, solution.choice) <= problem.exact_budget_usd
    assert solution.bound >= float(best) - EPS
    true_gap = (float(best) - solution.quality) / max(solution.quality, 1e-300)
    assert solution.gap >= true_gap - EPS
    if solution.status in {SolveStatus.OPTIMAL, SolveStatus.UNCONSTRAINED}:
        assert solution.quality >= float(best) - EPS


@quick
@given(problems(max_jobs=7, max_models=3, budget_usd=BUDGETS))
def test_the_way_by_samples_keeps_the_same_promises(problem: Problem) -> None:
    with patch.object(price_path, "DIRECT_JOBS", 1), patch.object(price_path, "SAMPLE_RATIO", 2):
        solution = solve(problem)
    best = _optimum(problem)
    assert solution.feasible == (best is not None)
    if best is not None:
        assert exact_cost(problem, solution.choice) <= problem.exact_budget_usd
        assert solution.bound >= float(best) - EPS


@quick
@given(problems(budget_usd=BUDGETS))
def test_masks_are_respected_and_every_servable_job_is_served(problem: Problem) -> None:
    solution = solve(problem)
    chosen = np.flatnonzero(solution.choice >= 0)
    assert problem.allowed[chosen, solution.choice[chosen]].all()
    if solution.feasible:
        assert ((solution.choice >= 0) == problem.allowed.any(axis=1)).all()


@quick
@given(problems(min_mean_quality=st.floats(0, 1)))
def test_a_quality_target_is_reached_at_a_cost_within_its_bound(
    problem: Problem,
) -> None:
    target = Fraction(problem.min_mean_quality) * served(problem)
    costs = [cost for _, quality, cost in every_choice(problem) if quality >= target]
    solution = solve(problem)
    assert solution.feasible == bool(costs)
    if not costs:
        assert "Lower the target by" in solution.advice
        return
    chosen = [(job, column) for job, column in enumerate(solution.choice) if column >= 0]
    reached = sum((Fraction(float(problem.quality[pair])) for pair in chosen), Fraction(0))
    assert reached >= target
    assert solution.bound <= float(min(costs)) + EPS
    assert solution.cost_usd >= float(min(costs)) - EPS


@quick
@given(problems(willingness_to_pay_usd=st.sampled_from([0.01, 0.3, 1.0, 5.0])))
def test_willingness_to_pay_alone_is_solved_exactly(problem: Problem) -> None:
    worth = problem.floor_price_per_usd
    best = max(float(quality) - worth * float(cost) for _, quality, cost in every_choice(problem))
    solution = solve(problem)
    assert abs(solution.value - best) <= EPS * max(1.0, abs(best))


@quick
@given(problems(max_jobs=4, max_models=3, budget_usd=BUDGETS))
def test_a_partial_choice_keeps_the_budget_and_says_what_is_missing(
    problem: Problem,
) -> None:
    solution = solve(problem, allow_partial=True)
    assert exact_cost(problem, solution.choice) <= problem.exact_budget_usd
    assert solution.unaffordable == served(problem) - solution.served
    if solution.feasible:
        assert solution.unaffordable == 0
        return
    assert "Raise the budget by" in solution.advice
    idle = np.zeros((problem.jobs, 1))
    parts = [np.hstack([part, idle]) for part in (problem.quality, problem.cost_usd)]
    with_idle = replace(
        problem,
        quality=parts[0],
        cost_usd=parts[1],
        allowed=np.hstack([problem.allowed, idle == 0]),
    )
    assert solution.bound >= float(_optimum(with_idle)) - EPS


@quick
@given(problems(budget_usd=BUDGETS), st.randoms(use_true_random=False))
def test_permuting_jobs_and_models_changes_nothing_but_ties(
    problem: Problem, random: Random
) -> None:
    jobs, models = list(range(problem.jobs)), list(range(problem.options))
    random.shuffle(jobs)
    random.shuffle(models)
    parts = (problem.quality, problem.cost_usd, problem.allowed)
    shuffled = Problem(*(part[jobs][:, models] for part in parts), budget_usd=problem.budget_usd)
    one, other = solve(problem), solve(shuffled)
    assert one.feasible == other.feasible
    if one.feasible:
        assert abs(one.bound - other.bound) <= 1e-7 * max(1.0, abs(one.bound))


@quick
@given(problems(max_jobs=6))
def test_the_frontier_rises_in_cost_and_quality_and_nothing_lies_above_it(problem: Problem) -> None:
    points = frontier(problem, 6)
    costs, qualities = [p.cost_usd for p in points], [p.quality for p in points]
    assert costs == sorted(set(costs))
    assert qualities == sorted(set(qualities))
    for point in points:
        best = max(
            quality
            for _, quality, cost in every_choice(problem)
            if float(cost) <= point.cost_usd + EPS
        )
        assert point.quality >= float(best) - EPS


CAPACITIES = st.tuples(st.integers(0, 4), st.integers(0, 20), st.randoms(use_true_random=False))


@settings(max_examples=25, deadline=None)
@given(problems(max_models=3, budget_usd=st.sampled_from([0.5, 1.5, 4.0])), CAPACITIES)
def test_capacities_hold_and_the_bound_is_above_the_exact_optimum(
    problem: Problem, capacities: tuple[int, int, Random]
) -> None:
    calls, tokens, random = capacities
    use = np.array([[random.randrange(9) for _ in row] for row in problem.quality], dtype=float)
    limits = (
        Capacity("calls", (0,), calls),
        Capacity("tokens", tuple(range(problem.options)), tokens, use),
    )
    problem = replace(problem, capacities=limits)
    exact, fast = solve(problem, solver="milp"), solve(problem)
    assert not (fast.feasible and not exact.feasible)
    for solution in (exact, fast):
        if solution.feasible:
            assert exact_cost(problem, solution.choice) <= problem.exact_budget_usd
            assert (solution.choice == 0).sum() <= calls
            chosen = np.flatnonzero(solution.choice >= 0)
            assert use[chosen, solution.choice[chosen]].sum() <= tokens
        else:
            assert solution.advice
    if fast.feasible:
        assert fast.bound >= exact.quality - EPS
        assert fast.quality <= exact.quality + EPS


@settings(max_examples=40, deadline=None)
@given(problems(max_jobs=6, budget_usd=st.sampled_from([0.5, 1.5, 4.0])))
def test_highs_and_brute_force_agree(problem: Problem) -> None:
    best, solution = _optimum(problem), solve(problem, solver="milp")
    assert solution.feasible == (best is not None)
    if best is not None:
        assert abs(solution.quality - float(best)) <= 1e-6
        assert exact_cost(problem, solution.choice) <= problem.exact_budget_usd
