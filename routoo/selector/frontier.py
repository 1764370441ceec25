"""Computes the best quality for every amount of money, before any is spent."""

import math
from dataclasses import dataclass

import numpy as np

from routoo.selector.problem import OptionTable, Problem
from routoo.selector.solvers.lagrangian.price_path import Goal, PricePath, Totals, find_path, sweep


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A choice on the frontier: none that costs as little or less has more quality."""

    cost_usd: float
    """Sum of expected cost, in USD."""
    quality: float
    """Sum of expected quality."""
    mean_quality: float
    """Over the jobs that have an allowed model."""
    shadow_price_per_usd: float
    """Quality that one more dollar buys from here."""


def frontier(problem: Problem, points: int = 20) -> list[FrontierPoint]:
    """Return points from the cheapest to the best choice, evenly spaced in cost.

    Each is an exact optimum for what it costs. Batch limits of the problem are not looked at.

    Args:
        problem: The jobs.
        points: How many at most, at least 2; fewer where neighbours coincide.

    Returns:
        Points of rising cost and rising quality.
    """
    table = OptionTable.of(problem)
    ends = sweep(table, math.inf, 0.0)
    wanted = np.linspace(ends.high.cost_usd, ends.low.cost_usd, max(2, points))[1:-1]
    served = max(1, problem.servable_jobs)
    found = [(ends.high, math.inf)]
    found += [_at_cost(table, cost) for cost in wanted.tolist()]
    found.append((ends.low, 0.0))
    line: list[FrontierPoint] = []
    for sums, price in found:
        if not line or (sums.cost_usd > line[-1].cost_usd and sums.quality > line[-1].quality):
            line.append(FrontierPoint(sums.cost_usd, sums.quality, sums.quality / served, price))
    return line


def cost_at_price(problem: Problem, price: float) -> float:
    """Return the budget in USD at which a dollar's shadow price falls to a price.

    Args:
        problem: The jobs; batch limits are not looked at.
        price: Quality per USD, above 0.
    """
    return sweep(OptionTable.of(problem), price, price).high.cost_usd


def _at_cost(table: OptionTable, cost_usd: float) -> tuple[Totals, float]:
    path = find_path(table, Goal("cost_usd", cost_usd), 0.0)
    return _before(path, cost_usd)


def _before(path: PricePath, cost_usd: float) -> tuple[Totals, float]:
    """Return the sums at the last point of a path within a cost, and the price there."""
    costs = path.start.cost_usd + np.cumsum(path.steps.cost_usd)
    taken = int(np.searchsorted(costs, cost_usd, side="right"))
    quality = path.start.quality + float(path.steps.quality[:taken].sum())
    cost = float(costs[taken - 1]) if taken else path.start.cost_usd
    price = float(path.steps.price[taken]) if taken < len(path.steps) else path.low_price
    return Totals(quality, cost), price
