"""Follows all jobs together through (cost, quality) as the price of a dollar falls.

At a price p, in quality per USD, a job takes the model with the largest quality - p x cost. As the
price falls its choice moves up its convex hull of cost and quality, never back. So a job that
chooses alike at both ends of a price bracket is settled within it: a `sweep` over all jobs finds
those that don't.

Both sums, of cost and of quality, only rise along the path. Only a short segment matters: where the
budget is spent, or the quality reached. On many jobs the bracket of that segment is found from a
sample and then checked on all jobs, so that hulls are built for the few jobs whose choice changes
within it.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int16, Int64

from routoo.selector.problem import OptionTable
from routoo.selector.solvers.lagrangian.hull import Steps, climb

SWEEP_JOBS = 2048
"""Rows of a block: two buffers of ten models stay in a core's second-level cache."""
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
class Totals:
    """Sums over all jobs at one price."""

    quality: float
    cost_usd: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """What all jobs choose at a high and at a low price of a dollar."""

    choice: Int16[np.ndarray, " jobs"]
    """Column at the high price; -1 where no model is allowed."""
    high: Totals
    low: Totals
    active: Int64[np.ndarray, " active"]
    """Jobs that choose differently at the two prices."""
    active_low: Int16[np.ndarray, " active"]
    """Their columns at the low price."""


def choose_at(
    price: float,
    quality: Float64[np.ndarray, "columns jobs"],
    cost_usd: Float64[np.ndarray, "columns jobs"],
    scratch: Float64[np.ndarray, "columns jobs"],
) -> Int64[np.ndarray, " jobs"]:
    """Return each job's column at a price in quality per USD, from 0 to infinity.

    At the ends, where one of the two counts for nothing, the other breaks ties. All further ties go
    to the first column.
    """
    if price == 0.0:
        best = quality >= quality.max(axis=0)
        return first_max(np.where(best, -cost_usd, -np.inf))
    if price == np.inf:
        np.copyto(scratch, cost_usd)
        np.copyto(scratch, np.inf, where=np.isneginf(quality))
        cheapest = scratch <= scratch.min(axis=0)
        return first_max(np.where(cheapest, quality, -np.inf))
    np.multiply(cost_usd, price, out=scratch)
    np.subtract(quality, scratch, out=scratch)
    return first_max(scratch)


def first_max(value: Float64[np.ndarray, "columns jobs"]) -> Int64[np.ndarray, " jobs"]:
    """Return the first of each job's columns with the largest value."""
    column: Int64[np.ndarray, " jobs"] = value.argmax(axis=0)
    return column


def sweep(table: OptionTable, high_price: float, low_price: float) -> Sweep:
    """Find every job's choice at both prices, in one pass.

    Args:
        table: The jobs.
        high_price: Quality per USD at which little is spent; may be infinite.
        low_price: Quality per USD at which much is spent; may be 0.
    """
    choice = np.empty(table.jobs, dtype=np.int16)
    shape = (table.columns, min(SWEEP_JOBS, table.jobs))
    quality, cost, scratch = (np.empty(shape) for _ in range(3))
    active, active_low = [], []
    sums = np.zeros(4)
    for start in range(0, table.jobs, SWEEP_JOBS):
        stop = min(start + SWEEP_JOBS, table.jobs)
        block = tuple(buffer[:, : stop - start] for buffer in (quality, cost, scratch))
        table.read(start, stop, block[0], block[1])
        at_high, at_low = choose_at(high_price, *block), choose_at(low_price, *block)
        sums += (*_totals(block[0], block[1], at_high), *_totals(block[0], block[1], at_low))
        moved = np.flatnonzero(at_high != at_low)
        active.append(moved + start)
        active_low.append(at_low[moved].astype(np.int16))
        choice[start:stop] = _without_unserved(block[0], at_high)
    return Sweep(
        choice,
        Totals(float(sums[0]), float(sums[1])),
        Totals(float(sums[2]), float(sums[3])),
        np.concatenate(active) if active else np.empty(0, np.int64),
        np.concatenate(active_low) if active_low else np.empty(0, np.int16),
    )


def _totals(
    quality: Float64[np.ndarray, "columns jobs"],
    cost_usd: Float64[np.ndarray, "columns jobs"],
    column: Int64[np.ndarray, " jobs"],
) -> tuple[float, float]:
    chosen = _take(quality, column)
    total = float(chosen.sum())
    if not np.isfinite(total):
        total = float(chosen[np.isfinite(chosen)].sum())
    return total, float(_take(cost_usd, column).sum())


def _take(
    array: Float64[np.ndarray, "columns jobs"], column: Int64[np.ndarray, " jobs"]
) -> Float64[np.ndarray, " jobs"]:
    taken: Float64[np.ndarray, " jobs"] = array[column, np.arange(len(column))]
    return taken


def _without_unserved(
    quality: Float64[np.ndarray, "columns jobs"], column: Int64[np.ndarray, " jobs"]
) -> Int64[np.ndarray, " jobs"]:
    unserved = np.isneginf(_take(quality, column))
    return np.where(unserved, -1, column) if unserved.any() else column


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
class PricePath:
    """A segment of the path between two prices."""

    choice: Int16[np.ndarray, " jobs"]
    """Each job's column where the segment starts; -1 where no model is allowed."""
    start: Totals
    steps: Steps
    high_price: float
    low_price: float
    active: Int64[np.ndarray, " active"]
    """Jobs that have steps on this segment."""


def find_path(
    table: OptionTable, goal: Goal, floor_price: float, *, whole: bool = False
) -> PricePath:
    """Return a segment that holds the goal, or one that ends where the whole path does.

    Args:
        table: The jobs.
        goal: Where the caller will stop.
        floor_price: Quality per USD below which the path ends, at least 0.
        whole: Return the path from end to end, at whatever time and memory that takes.
    """
    if whole or table.jobs <= DIRECT_JOBS:
        return _segment(table, sweep(table, math.inf, floor_price), (math.inf, floor_price))
    high, low = _bracket(table, goal, floor_price)
    for widening in (*WIDENINGS, math.inf):
        seen = sweep(table, high, low)
        if goal.reached(seen.high) > goal.amount and high < math.inf:
            low, high = high, high * widening
        elif goal.reached(seen.low) < goal.amount and low > floor_price:
            high, low = low, max(floor_price, low / widening)
        else:
            break
    return _segment(table, seen, (high, low))


def _segment(table: OptionTable, seen: Sweep, prices: tuple[float, float]) -> PricePath:
    high, low = prices
    start = seen.choice[seen.active]
    steps = climb(table.rows(seen.active), start, low, high)
    steps = Steps(seen.active[steps.job], steps.column, steps.quality, steps.cost_usd, steps.price)
    return PricePath(seen.choice, seen.high, steps, high, low, seen.active)


def _bracket(table: OptionTable, goal: Goal, floor_price: float) -> tuple[float, float]:
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


def _standard_error(sample: OptionTable, path: PricePath, goal: Goal) -> float:
    """Return how far the sum of another such sample may be from this one's."""
    quality, cost = sample.pick(path.choice)
    unit = cost if goal.unit == "cost_usd" else quality
    return float(unit.std() * math.sqrt(len(unit))) if len(unit) else 0.0
