"""States a problem with several limits as one programme: gains to maximise, resources drawn.

Maximise the sum of gains so that every resource's draws stay within its limit. A quality target
reads as a resource too: minus the quality may be at most minus the target. At given prices of the
resources each job's best choice is found by itself, which bounds what any choice gains (the dual).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64, Int, Int16

from routoo.selector.problem import OptionTable, Problem

BLOCK_JOBS = 2048
"""Rows of a block: its arrays stay in a core's second-level cache."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A limited quantity that options draw on."""

    name: str
    limit: Fraction
    """Most that may be drawn; negative for a target to reach."""
    kind: Literal["cost_usd", "quality", "calls", "use"]
    options: tuple[int, ...] = ()
    use: Float[np.ndarray, "jobs options"] | None = None

    @property
    def scale(self) -> float:
        """A power of two about the limit's size: draws divided by it stay exact."""
        size = abs(float(self.limit))
        return 2.0 ** math.ceil(math.log2(size)) if size > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a programme in double precision."""

    gain: Float64[np.ndarray, "columns rows"]
    """Minus infinity where the pair is ruled out."""
    draw: Float64[np.ndarray, "resources columns rows"]
    """In units of each resource's scale."""

    def value(
        self, prices: Float64[np.ndarray, " resources"]
    ) -> Float64[np.ndarray, "columns rows"]:
        """Return gains less what is drawn, at prices per unit of scale."""
        count = len(prices)
        paid = prices @ self.draw.reshape(count, -1)
        value: Float64[np.ndarray, "columns rows"] = self.gain - paid.reshape(self.gain.shape)
        return value


@dataclass(frozen=True, slots=True)
class Programme:
    """A problem as gains to maximise under limits on resources."""

    table: OptionTable
    resources: tuple[Resource, ...]
    floor_price: float
    """Quality per USD that a dollar must buy."""
    minimise_cost: bool

    @classmethod
    def of(cls, problem: Problem, *, idle: bool = False) -> "Programme":
        """Return the programme of a problem; with `idle`, a job may go without a model."""
        return cls(
            OptionTable.of(problem, idle=idle),
            tuple(_resources(problem)),
            problem.floor_price_per_usd,
            problem.min_mean_quality is not None,
        )

    @property
    def targets(self) -> Float64[np.ndarray, " resources"]:
        """Limits in units of their scale: above 0.5 up to 1, negative for a target, or 0."""
        return np.array([float(item.limit) / item.scale for item in self.resources])

    def rows(self, index: Int[np.ndarray, " rows"] | slice) -> Block:
        """Return some rows."""
        part = self.table.rows(index)
        quality, cost = part.dense()
        ruled_out = np.isneginf(quality)
        gain = np.where(ruled_out, -np.inf, -cost) if self.minimise_cost else quality
        if self.floor_price and not self.minimise_cost:
            gain = quality - self.floor_price * cost
        draw = np.zeros((len(self.resources), *quality.shape))
        for row, item in enumerate(self.resources):
            self._draw(item, index, (quality, cost), draw[row])
            np.copyto(draw[row], 0.0, where=ruled_out)
        return Block(gain, draw)

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """Yield all rows, a cache-sized block at a time."""
        for start in range(0, self.table.jobs, BLOCK_JOBS):
            part = slice(start, min(start + BLOCK_JOBS, self.table.jobs))
            yield part, self.rows(part)

    def _draw(
        self,
        item: Resource,
        index: Int[np.ndarray, " rows"] | slice,
        pair: tuple[Float64[np.ndarray, "columns rows"], Float64[np.ndarray, "columns rows"]],
        out: Float64[np.ndarray, "columns rows"],
    ) -> None:
        if item.kind == "cost_usd":
            np.divide(pair[1], item.scale, out=out)
        elif item.kind == "quality":
            np.divide(pair[0], -item.scale, out=out)
        for option in item.options:
            out[option] = 1.0 if item.use is None else item.use[index, option]
            out[option] /= item.scale

    def drawn(
        self, choice: Int[np.ndarray, " jobs"], item: Resource
    ) -> Float64[np.ndarray, " served"]:
        """Return what each served job draws on a resource, in the resource's own unit."""
        if item.kind in {"cost_usd", "quality"}:
            quality, cost = self.table.pick(choice)
            return cost if item.kind == "cost_usd" else -quality
        jobs = np.flatnonzero(np.isin(choice, item.options))
        if item.use is None:
            return np.ones(len(jobs))
        draws: Float64[np.ndarray, " served"] = item.use[jobs, choice[jobs]].astype(np.float64)
        return draws


@dataclass(frozen=True, slots=True)
class DualPoint:
    """The choice of all jobs at some prices, and the dual's value there."""

    prices: Float64[np.ndarray, " resources"]
    """Objective per unit of each resource's scale."""
    choice: Int16[np.ndarray, " jobs"]
    """-1 where no model is allowed."""
    drawn: Float64[np.ndarray, " resources"]
    """In units of the resources' scales."""
    bound: float
    """The dual's value: no choice within the limits gains more."""


def evaluate_dual(programme: Programme, prices: Float64[np.ndarray, " resources"]) -> DualPoint:
    """Let every job choose at the prices, in one pass."""
    choice = np.empty(programme.table.jobs, dtype=np.int16)
    drawn = np.zeros(len(prices))
    total = 0.0
    for part, block in programme.blocks():
        value = block.value(prices)
        column = value.argmax(axis=0)
        rows = np.arange(len(column))
        taken = value[column, rows]
        served = np.isfinite(taken)
        total += float(taken[served].sum())
        drawn += block.draw[:, column, rows].sum(axis=1)
        choice[part] = np.where(served, column, -1)
    bound = total + float(prices @ programme.targets)
    return DualPoint(prices, choice, drawn, bound)


def least_gain(programme: Programme) -> float:
    """Return the least gain of any choice; a dual below it proves that the limits can't hold."""
    least = 0.0
    for _, block in programme.blocks():
        lowest = np.where(np.isneginf(block.gain), np.inf, block.gain).min(axis=0)
        least += float(lowest[np.isfinite(lowest)].sum())
    return least


def _resources(problem: Problem) -> Iterator[Resource]:
    if problem.exact_budget_usd is not None:
        yield Resource("budget_usd", problem.exact_budget_usd, "cost_usd")
    if problem.min_mean_quality is not None:
        target = Fraction(problem.min_mean_quality) * problem.servable_jobs
        yield Resource("min_mean_quality", -target, "quality")
    for item in problem.capacities:
        kind: Literal["calls", "use"] = "calls" if item.use is None else "use"
        # More than every call there is limits nothing, and infinity has no fraction.
        if item.use is None and item.limit >= problem.jobs:
            continue
        if item.limit < np.inf:
            yield Resource(item.name, Fraction(float(item.limit)), kind, item.options, item.use)
