"""Follows the path of falling prices to the goal, then uses the slack by local search.

Source: Sinha and Zoltners, The multiple-choice knapsack problem, Operations Research 27 (1979), for
the relaxation and its bound; Kellerer, Pferschy and Pisinger, Knapsack Problems (2004), chapter 11.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from jaxtyping import Float64, Int16, Int64

from routoo.selector.problem import OptionTable, Problem, exact_sum
from routoo.selector.solution import (
    Proof,
    Solution,
    SolveStatus,
    advise_budget,
    conclude,
    infeasible,
)
from routoo.selector.solvers.lagrangian.price_path import Goal, PricePath, find_path, sweep

ENOUGH_GAP = 2e-9
"""Relative gap at which looking for better exchanges stops being worth the time."""
NEIGHBOURS = 256
"""Steps on either side of the split whose jobs are looked at again."""
ROUNDS = 64
"""Most changes, or pairs of changes, that are applied."""
TRIES = 8
"""Best pairs looked at in a round before it counts as fruitless."""


@dataclass(slots=True)
class Exchange:
    """The options of some jobs, their gains and uses of the slack, and the choice so far."""

    gain: Float64[np.ndarray, "columns jobs"]
    """What the objective gains by an option; minus infinity where it is ruled out."""
    use: Float64[np.ndarray, "columns jobs"]
    """What an option draws from the slack."""
    column: Int16[np.ndarray, " jobs"]
    """Columns chosen; changed in place."""
    slack: Fraction
    """What is left, exactly; at least 0."""


_Move = tuple[int, int]
"""A job's position and its new column."""


def improve(exchange: Exchange, enough: float) -> float:
    """Apply the best changes that fit until the gain is enough or none is left.

    Args:
        exchange: Changed in place: its columns and its slack.
        enough: Stop once this much was gained.

    Returns:
        The gain.
    """
    gained = 0.0
    for _ in range(ROUNDS):
        if gained >= enough or len(exchange.column) == 0:
            break
        step = next((best for best in _candidates(exchange) if _fits(exchange, best)), None)
        if step is None:
            break
        gained += _apply(exchange, step)
    return gained


def _candidates(exchange: Exchange) -> Iterator[tuple[_Move, ...]]:
    """Yield changes that fit, to float precision, and gain; the most gain first."""
    here = np.arange(len(exchange.column))
    gain = (exchange.gain - exchange.gain[exchange.column, here]).ravel()
    use = (exchange.use - exchange.use[exchange.column, here]).ravel()
    up = np.flatnonzero(gain > 0)
    up = up[np.lexsort((-gain[up], use[up]))]
    down = np.flatnonzero((use < 0) & np.isfinite(gain))
    # Position len(here)-wise: flat index = column * jobs + job. "No move" pays nothing.
    pay = np.concatenate(([0.0], -use[down]))
    loss = np.concatenate(([0.0], -gain[down]))
    best, owner = _running_best(gain[up])
    reach = np.searchsorted(use[up], float(exchange.slack) + pay, side="right") - 1
    net = np.where(reach >= 0, best[reach], -np.inf) - loss if len(up) else np.full(len(pay), -1.0)
    order = np.argsort(-net, kind="stable")[:TRIES]
    for at in order[net[order] > 0].tolist():
        moves = [int(up[owner[reach[at]]])] + ([int(down[at - 1])] if at > 0 else [])
        yield tuple((move % len(here), move // len(here)) for move in moves)


def _running_best(
    gain: Float64[np.ndarray, " moves"],
) -> tuple[Float64[np.ndarray, " moves"], Int64[np.ndarray, " moves"]]:
    """Return the largest gain up to each position, and the position it was first seen at."""
    best = np.maximum.accumulate(gain)
    fresh = np.concatenate(([True], best[1:] > best[:-1]))[: len(gain)]
    return best, np.maximum.accumulate(np.where(fresh, np.arange(len(gain)), 0))


def _fits(exchange: Exchange, moves: tuple[_Move, ...]) -> bool:
    if len({job for job, _ in moves}) < len(moves):
        return False
    return _draw(exchange, moves) <= exchange.slack


def _draw(exchange: Exchange, moves: tuple[_Move, ...]) -> Fraction:
    return sum(
        (
            Fraction(exchange.use[column, job]) - Fraction(exchange.use[exchange.column[job], job])
            for job, column in moves
        ),
        Fraction(0),
    )


def _apply(exchange: Exchange, moves: tuple[_Move, ...]) -> float:
    exchange.slack -= _draw(exchange, moves)
    gained = 0.0
    for job, column in moves:
        gained += float(exchange.gain[column, job] - exchange.gain[exchange.column[job], job])
        exchange.column[job] = column
    return gained


@dataclass(slots=True)
class SplitSolution:
    """The choice after the first steps of a path."""

    path: PricePath
    taken: int
    choice: Int16[np.ndarray, " jobs"]

    @classmethod
    def after(cls, path: PricePath, taken: int) -> "SplitSolution":
        """Take the first steps of a path; of a job's several steps the last one counts."""
        choice = path.choice.copy()
        choice[path.steps.job[:taken]] = path.steps.column[:taken]
        return cls(path, taken, choice)

    def price(self, step: int) -> float:
        """Return the quality per USD that a step buys; past the last one, where the path ends."""
        prices = self.path.steps.price
        return float(prices[step]) if step < len(prices) else self.path.low_price

    def spend(
        self, table: OptionTable, slack: Fraction, *, floor_price: float, enough: float
    ) -> None:
        """Buy more quality with the money left, until `enough` was gained."""
        jobs = self._jobs_near_split(table)
        quality, cost = table.rows(jobs).dense()
        exchange = Exchange(quality - floor_price * cost, cost, self.choice[jobs], slack)
        improve(exchange, enough)
        self.choice[jobs] = exchange.column

    def save(self, table: OptionTable, surplus: Fraction, *, enough: float) -> None:
        """Save money with the surplus of quality, until `enough` was saved."""
        jobs = self._jobs_near_split(table)
        quality, cost = table.rows(jobs).dense()
        saving = np.where(np.isneginf(quality), -np.inf, -cost)
        exchange = Exchange(saving, -quality, self.choice[jobs], surplus)
        improve(exchange, enough)
        self.choice[jobs] = exchange.column

    def _jobs_near_split(self, table: OptionTable) -> Int64[np.ndarray, " jobs"]:
        """Return served jobs whose steps are about worth the price at the split."""
        if table.jobs <= NEIGHBOURS:
            return np.flatnonzero(self.choice >= 0)
        near = slice(max(0, self.taken - NEIGHBOURS), self.taken + NEIGHBOURS)
        return np.unique(self.path.steps.job[near])


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
