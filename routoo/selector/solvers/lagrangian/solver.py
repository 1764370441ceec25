"""Follow the path of falling prices to the goal, then put the slack to use by local search.

Source: Sinha and Zoltners, The multiple-choice knapsack problem, Operations Research 27 (1979), for
the relaxation and its bound; Kellerer, Pferschy and Pisinger, Knapsack Problems (2004), chapter 11.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np

from routoo.selector.option_table import OptionTable, exact_sum
from routoo.selector.problem import Problem
from routoo.selector.solution import (
    Proof,
    Solution,
    SolveStatus,
    advise_budget,
    conclude,
    infeasible,
)
from routoo.selector.solvers.lagrangian.local_search import SplitSolution
from routoo.selector.solvers.lagrangian.price_path import Goal, PricePath, find_path, sweep

ENOUGH_GAP = 2e-9
"""Relative gap at which looking for better exchanges stops being worth the time."""


def solve_lagrangian(problem: Problem, *, allow_partial: bool = False) -> Solution:
    """Solve a problem that has at most one limit beside the jobs' own.

    Args:
        problem: The problem; its capacities are not looked at.
        allow_partial: Where the budget can't pay for all jobs, leave some without a model.

    Returns:
        A solution within the limits, or the reason why there is none.
    """
    if problem.min_mean_quality is not None:
        return _reach_quality(problem, problem.min_mean_quality)
    if problem.budget_usd is None:
        return _unlimited(problem)
    solution = _spend_budget(problem, OptionTable.of(problem))
    if allow_partial and not solution.feasible:
        partial = _spend_budget(problem, OptionTable.of(problem, idle=True))
        return replace(partial, status=SolveStatus.INFEASIBLE, advice=solution.advice)
    return solution


def _unlimited(problem: Problem) -> Solution:
    table, floor = OptionTable.of(problem), problem.floor_price_per_usd
    choice = sweep(table, floor, floor).choice
    return conclude(problem, table, choice, Proof(None, binding=False))


def _spend_budget(problem: Problem, table: OptionTable) -> Solution:
    budget, floor = problem.exact_budget_usd or Fraction(0), problem.floor_price_per_usd
    goal = Goal("cost_usd", float(budget))
    split, slack = _split_at_budget(find_path(table, goal, floor), table, budget)
    if slack < 0 and split.path.high_price < np.inf:
        # Rounding hid that even the segment's start is over budget.
        split, slack = _split_at_budget(find_path(table, goal, floor, whole=True), table, budget)
    if slack < 0:
        why = "the cheapest allowed choice of all jobs"
        return infeasible(problem, advise_budget(problem, budget - slack, why))
    if split.taken == len(split.path.steps) and split.path.low_price == floor:
        return conclude(problem, table, split.choice, Proof(None, binding=False))
    price = split.price(split.taken)
    room = (price - floor) * float(slack)
    quality, cost = (float(part.sum()) for part in table.pick(split.choice))
    bound = quality - floor * cost + room
    split.spend(table, slack, floor_price=floor, enough=room - ENOUGH_GAP * abs(bound))
    return conclude(problem, table, split.choice, Proof(bound, price))


def _split_at_budget(
    path: PricePath, table: OptionTable, budget: Fraction
) -> tuple[SplitSolution, Fraction]:
    """Take as many steps as the budget pays for, exactly; the slack is negative if none do."""
    spent = path.start.cost_usd + np.cumsum(path.steps.cost_usd)
    taken = int(np.searchsorted(spent, float(budget), side="right"))
    while True:
        split = SplitSolution.after(path, taken)
        slack = budget - exact_sum(table.pick(split.choice)[1])
        if slack >= 0 or taken == 0:
            return split, slack
        taken -= 1


def _reach_quality(problem: Problem, mean: float) -> Solution:
    table, target = OptionTable.of(problem), Fraction(mean) * problem.servable_jobs
    goal = Goal("quality", float(target))
    split, surplus = _split_at_quality(find_path(table, goal, 0.0), table, target)
    if surplus < 0 and split.path.low_price > 0:
        # Rounding hid that even the segment's end is below the target.
        split, surplus = _split_at_quality(find_path(table, goal, 0.0, whole=True), table, target)
    if surplus < 0:
        return infeasible(problem, _advise_quality(problem, target + surplus))
    if split.taken == 0:
        return _within_budget(problem, conclude(problem, table, split.choice, Proof(None)))
    price = split.price(split.taken - 1)
    before = table.pick(SplitSolution.after(split.path, split.taken - 1).choice)
    bound = float(exact_sum(before[1])) + float(target - exact_sum(before[0])) / price
    room = float(exact_sum(table.pick(split.choice)[1])) - bound
    split.save(table, surplus, enough=room - ENOUGH_GAP * bound)
    return _within_budget(problem, conclude(problem, table, split.choice, Proof(bound, price)))


def _split_at_quality(
    path: PricePath, table: OptionTable, target: Fraction
) -> tuple[SplitSolution, Fraction]:
    """Take as few steps as reach the target, exactly; the surplus is negative if none do."""
    reached = path.start.quality + np.r_[0.0, np.cumsum(path.steps.quality)]
    taken = min(int(np.searchsorted(reached, float(target))), len(path.steps))
    while True:
        split = SplitSolution.after(path, taken)
        surplus = exact_sum(table.pick(split.choice)[0]) - target
        if surplus >= 0 or taken == len(path.steps):
            return split, surplus
        taken += 1


def _within_budget(problem: Problem, solution: Solution) -> Solution:
    """Return the least-cost solution unless it breaks a budget that was given as well."""
    budget = problem.exact_budget_usd
    if budget is None or Fraction(solution.cost_usd) <= budget:
        return solution
    why = f"a mean quality of {problem.min_mean_quality}"
    return infeasible(problem, advise_budget(problem, Fraction(solution.cost_usd), why))


def _advise_quality(problem: Problem, best: Fraction) -> str:
    mean = float(best / max(1, problem.servable_jobs))
    target = problem.min_mean_quality or 0.0
    return (
        f"A mean quality of {target:g} is out of reach: the best allowed choice of all jobs has "
        f"{mean:.6g}. Lower the target by {target - mean:.6g} or relax the jobs' limits."
    )
