"""One pass over all jobs: what each would choose at two prices of a dollar.

At a price p a job takes the model with the largest quality - p x cost. As the price falls its
choice moves up its convex hull of cost and quality, never back. So a job that chooses alike at both
ends of a price bracket is settled within it, and only the others need a closer look.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int16, Int64

from routoo.selector.option_table import Table

BLOCK_JOBS = 2048
"""Rows of a block: two buffers of ten models stay in a core's second-level cache."""


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


def sweep(table: Table, high_price: float, low_price: float) -> Sweep:
    """Let every job choose at both prices.

    Args:
        table: The jobs.
        high_price: Quality per USD at which little is spent; may be infinite.
        low_price: Quality per USD at which much is spent; may be 0.
    """
    choice = np.empty(table.jobs, dtype=np.int16)
    shape = (table.columns, min(BLOCK_JOBS, table.jobs))
    quality, cost, scratch = (np.empty(shape) for _ in range(3))
    active, active_low = [], []
    sums = np.zeros(4)
    for start in range(0, table.jobs, BLOCK_JOBS):
        stop = min(start + BLOCK_JOBS, table.jobs)
        block = tuple(buffer[:, : stop - start] for buffer in (quality, cost, scratch))
        table.read(start, stop, block[0], block[1])
        at_high, at_low = choose_at(high_price, *block), choose_at(low_price, *block)
        sums += (*_totals(block[0], block[1], at_high), *_totals(block[0], block[1], at_low))
        moved = np.flatnonzero(at_high != at_low)
        active.append(moved + start)
        active_low.append(at_low[moved].astype(np.int16))
        choice[start:stop] = _mark_unserved(block[0], at_high)
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


def _mark_unserved(
    quality: Float64[np.ndarray, "columns jobs"], column: Int64[np.ndarray, " jobs"]
) -> Int64[np.ndarray, " jobs"]:
    unserved = np.isneginf(_take(quality, column))
    return np.where(unserved, -1, column) if unserved.any() else column
