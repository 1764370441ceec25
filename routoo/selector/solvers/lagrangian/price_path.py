"""The path that all jobs together take through (cost, quality) as the price of a dollar falls.

Both sums only rise along it. Only a short stretch matters: where the budget is spent, or the
quality reached. On many jobs that stretch is found from a sample and then checked on all, so that
hulls are built for the few jobs whose choice changes within it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int16, Int64

from routoo.selector.option_table import Table
from routoo.selector.solvers.lagrangian.hull import Steps, climb
from routoo.selector.sweep import Sweep, Totals, sweep

DIRECT_JOBS = 1000
"""Up to here every job's whole hull is cheaper than a pass with a sample's bracket."""
SAMPLE_RATIO = 16
SAMPLE_SEED = 20_260_401
"""The sample decides speed only, never the answer; a fixed seed keeps runs alike."""
SIGMAS = 4.0
"""Half width of the sample's bracket in standard errors."""
WIDENINGS = (2.0, 32.0, math.inf)
"""Factors on a bracket's end that turned out too close."""
NUDGE = 1e-9
"""Ends are moved apart by this, so that jobs that tie at an end fall inside the bracket."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Where on the path to stop: at a sum of cost or of quality."""

    unit: Literal["cost_usd", "quality"]
    amount: float

    def reached(self, totals: Totals) -> float:
        """Return the sum of this goal's unit."""
        return totals.cost_usd if self.unit == "cost_usd" else totals.quality

    def along(self, steps: Steps) -> Float64[np.ndarray, " steps"]:
        """Return what each step adds in this goal's unit."""
        return steps.cost_usd if self.unit == "cost_usd" else steps.quality


@dataclass(frozen=True, slots=True)
class Path:
    """A stretch of the path between two prices."""

    choice: Int16[np.ndarray, " jobs"]
    """Each job's column where the stretch starts; -1 where no model is allowed."""
    start: Totals
    steps: Steps
    high_price: float
    low_price: float
    active: Int64[np.ndarray, " active"]
    """Jobs that have steps on this stretch."""


def find_path(table: Table, goal: Goal, floor_price: float, *, whole: bool = False) -> Path:
    """Return a stretch that holds the goal, or one that ends where the whole path does.

    Args:
        table: The jobs.
        goal: Where the caller will stop.
        floor_price: Quality per USD below which the path ends, at least 0.
        whole: Return the path from end to end, at whatever time and memory that takes.
    """
    if whole or table.jobs <= DIRECT_JOBS:
        return _stretch(table, sweep(table, math.inf, floor_price), (math.inf, floor_price))
    high, low = _guess(table, goal, floor_price)
    for widening in (*WIDENINGS, math.inf):
        seen = sweep(table, high, low)
        if goal.reached(seen.high) > goal.amount and high < math.inf:
            low, high = high, high * widening
        elif goal.reached(seen.low) < goal.amount and low > floor_price:
            high, low = low, max(floor_price, low / widening)
        else:
            break
    return _stretch(table, seen, (high, low))


def _stretch(table: Table, seen: Sweep, prices: tuple[float, float]) -> Path:
    high, low = prices
    start = seen.choice[seen.active]
    steps = climb(table.rows(seen.active), start, low, high)
    steps = Steps(seen.active[steps.job], steps.column, steps.quality, steps.cost_usd, steps.price)
    return Path(seen.choice, seen.high, steps, high, low, seen.active)


def _guess(table: Table, goal: Goal, floor_price: float) -> tuple[float, float]:
    """Return a high and a low price that very likely enclose the goal, from a sample."""
    draw = np.random.default_rng(SAMPLE_SEED).integers(0, table.jobs, table.jobs // SAMPLE_RATIO)
    sample = table.rows(np.sort(draw))
    aim = goal.amount * sample.jobs / table.jobs
    path = find_path(sample, Goal(goal.unit, aim), floor_price)
    sums = goal.reached(path.start) + np.cumsum(goal.along(path.steps))
    margin = SIGMAS * _standard_error(sample, path, goal)
    first, last = np.searchsorted(sums, [aim - margin, aim + margin])
    price = path.steps.price
    high = price[first - 1] * (1 + NUDGE) if first > 0 else path.high_price
    low = price[last] * (1 - NUDGE) if last < len(price) else path.low_price
    return float(high), max(floor_price, float(low))


def _standard_error(sample: Table, path: Path, goal: Goal) -> float:
    """Return how far the sum of another such sample may be from this one's."""
    quality, cost = sample.pick(path.choice)
    unit = cost if goal.unit == "cost_usd" else quality
    return float(unit.std() * math.sqrt(len(unit))) if len(unit) else 0.0
