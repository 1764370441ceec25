"""Finds the steps of each job up its upper convex hull of cost and quality.

Source: Sinha and Zoltners, The multiple-choice knapsack problem, Operations Research 27 (1979): the
LP relaxation takes the hulls' steps of all jobs in the order of falling quality per USD.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int16, Int64

from routoo.selector.problem import OptionTable

BLOCK_JOBS = 1 << 15
"""Jobs worked on at once, which bounds the memory of intermediate arrays."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Upgrades of jobs to a dearer and better model, the most quality per dollar first."""

    job: Int64[np.ndarray, " steps"]
    column: Int16[np.ndarray, " steps"]
    """The model after the step."""
    quality: Float64[np.ndarray, " steps"]
    """Quality gained."""
    cost_usd: Float64[np.ndarray, " steps"]
    """Cost added, in USD."""
    price: Float64[np.ndarray, " steps"]
    """Quality per USD; never rises, and a job's own steps keep their order."""

    def __len__(self) -> int:
        return len(self.job)


def climb(
    table: OptionTable, start: Int[np.ndarray, " jobs"], floor_price: float, ceiling_price: float
) -> Steps:
    """Return all steps from each job's start that buy more than the floor price.

    Args:
        table: The jobs.
        start: Column that each job starts at, on its hull; all of them served.
        floor_price: Quality per USD that a step must exceed.
        ceiling_price: Highest price of a step from the start, but for rounding.
    """
    parts = []
    for first in range(0, table.jobs, BLOCK_JOBS):
        rows = np.arange(first, min(first + BLOCK_JOBS, table.jobs))
        parts += _climb_block(table.rows(rows), start[rows], (floor_price, ceiling_price), first)
    if not parts:
        none = np.empty(0)
        return Steps(none.astype(np.int64), none.astype(np.int16), none, none, none)
    job, column, quality, cost, price = (
        np.concatenate(field) for field in zip(*parts, strict=True)
    )
    order = np.argsort(-price, kind="stable")
    return Steps(job[order], column[order], quality[order], cost[order], price[order])


_Part = tuple[
    Int64[np.ndarray, " steps"],
    Int16[np.ndarray, " steps"],
    Float64[np.ndarray, " steps"],
    Float64[np.ndarray, " steps"],
    Float64[np.ndarray, " steps"],
]


def _climb_block(
    table: OptionTable, start: Int[np.ndarray, " jobs"], prices: tuple[float, float], first: int
) -> list[_Part]:
    quality, cost = table.dense()
    at = start.astype(np.int64)
    floor, ceiling = prices
    last_price = np.full(table.jobs, ceiling)
    jobs = np.arange(table.jobs)
    parts = []
    while len(jobs):
        column, price = _steepest(quality, cost, at, floor)
        climbs = price > floor
        jobs, at, column = jobs[climbs], at[climbs], column[climbs]
        quality, cost = quality[:, climbs], cost[:, climbs]
        # Rounding may turn a straight stretch of hull into a slightly steeper second step.
        last_price = np.minimum(price[climbs], last_price[climbs])
        here = np.arange(len(jobs))
        gain = quality[column, here] - quality[at, here]
        extra = cost[column, here] - cost[at, here]
        parts.append((jobs + first, column.astype(np.int16), gain, extra, last_price))
        at = column
    return parts


def _steepest(
    quality: Float64[np.ndarray, "columns jobs"],
    cost: Float64[np.ndarray, "columns jobs"],
    at: Int64[np.ndarray, " jobs"],
    floor: float,
) -> tuple[Int64[np.ndarray, " jobs"], Float64[np.ndarray, " jobs"]]:
    """Return each job's next column and the price of the step; of collinear ones the nearest."""
    here = np.arange(len(at))
    gain = quality - quality[at, here]
    extra = cost - cost[at, here]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        price = gain / extra
    np.copyto(price, np.inf, where=(gain > 0) & (extra <= 0))
    np.copyto(price, floor, where=~(gain > 0))
    best = price.max(axis=0) if len(at) else np.empty(0)
    nearest = np.where(price >= best, gain, np.inf)
    return nearest.argmin(axis=0), best
