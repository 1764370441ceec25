"""Finds the prices of several resources at once by minimising the Lagrangian dual.

The dual is convex, but not smooth at prices where a job's choice changes. Smoothed by a soft
maximum it is minimised by projected Newton steps, with less smoothing in each. On many jobs that is
done on a sample, whose curvature then serves a few steps on the slope of all jobs.

Source: Nesterov, Smooth minimization of non-smooth functions, Mathematical Programming 103 (2005).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int16

from routoo.selector.solvers.programme import Block, Programme

SAMPLE_JOBS = 12_000
SAMPLE_SEED = 20_260_402
SMOOTHING = (0.3, 0.1, 0.03, 0.01, 0.003)
"""Widths of the soft maximum, as shares of the gains' spread."""
STEPS = 25
STEP_SHRINKS = 30
ALL_JOBS_STEPS = 4
CLOSE = 2e-5
"""Worth of unused or overdrawn limits, relative to the dual, at which prices are good enough."""
RIDGE = 1e-9
ARMIJO = 1e-4


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


@dataclass(frozen=True, slots=True)
class _SmoothedDual:
    value: float
    gradient: Float64[np.ndarray, " resources"]
    curvature: Float64[np.ndarray, "resources resources"]


def find_prices(programme: Programme) -> DualPoint:
    """Return the best prices found, and what all jobs choose at them."""
    prices, curvature = _on_sample(programme)
    best = evaluate_dual(programme, prices)
    at = best
    for _ in range(ALL_JOBS_STEPS):
        gradient = programme.targets - at.drawn
        if float(np.abs(gradient * at.prices).sum()) <= CLOSE * abs(best.bound):
            break
        prices = np.maximum(0.0, at.prices + _newton(gradient, curvature, at.prices))
        at = evaluate_dual(programme, prices)
        if at.bound < best.bound:
            best = at
    return best


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


def _on_sample(
    programme: Programme,
) -> tuple[Float64[np.ndarray, " resources"], Float64[np.ndarray, "resources resources"]]:
    jobs = programme.table.jobs
    rows = np.arange(jobs)
    if jobs > SAMPLE_JOBS:
        rows = np.sort(np.random.default_rng(SAMPLE_SEED).integers(0, jobs, SAMPLE_JOBS))
    block = programme.rows(rows)
    served = np.isfinite(block.gain.max(axis=0))
    block = Block(block.gain[:, served], block.draw[:, :, served])
    share = len(rows) / jobs
    spread = float(block.gain[np.isfinite(block.gain)].std()) or 1.0
    prices = np.zeros(len(programme.resources))
    at = _smoothed_dual(block, prices, programme.targets * share, spread)
    for width in SMOOTHING:
        prices, at = _descend(block, prices, programme.targets * share, width * spread)
    return prices, at.curvature / share


def _descend(
    block: Block,
    prices: Float64[np.ndarray, " resources"],
    targets: Float64[np.ndarray, " resources"],
    width: float,
) -> tuple[Float64[np.ndarray, " resources"], _SmoothedDual]:
    at = _smoothed_dual(block, prices, targets, width)
    for _ in range(STEPS):
        step = _newton(at.gradient, at.curvature, prices)
        for shrink in range(STEP_SHRINKS):
            trial = np.maximum(0.0, prices + step * 0.5**shrink)
            then = _smoothed_dual(block, trial, targets, width)
            if then.value <= at.value + ARMIJO * float(at.gradient @ (trial - prices)):
                break
        else:
            break
        fell = at.value - then.value
        prices, at = trial, then
        if fell <= 1e-7 * width * block.gain.shape[1]:
            break
    return prices, at


def _smoothed_dual(
    block: Block,
    prices: Float64[np.ndarray, " resources"],
    targets: Float64[np.ndarray, " resources"],
    width: float,
) -> _SmoothedDual:
    """Return the smoothed dual with its first and second derivatives."""
    value = block.value(prices)
    top = value.max(axis=0)
    weight = np.exp((value - top) / width)
    total = weight.sum(axis=0)
    weight /= total
    count = len(prices)
    expected = np.einsum("cj,kcj->kj", weight, block.draw)
    flat = block.draw.reshape(count, -1)
    second = (flat * weight.ravel()) @ flat.T
    dual = float(prices @ targets + top.sum() + width * np.log(total).sum())
    return _SmoothedDual(
        dual, targets - expected.sum(axis=1), (second - expected @ expected.T) / width
    )


def _newton(
    gradient: Float64[np.ndarray, " resources"],
    curvature: Float64[np.ndarray, "resources resources"],
    prices: Float64[np.ndarray, " resources"],
) -> Float64[np.ndarray, " resources"]:
    """Return a descent step in the prices that are free to move: above 0, or pushed up."""
    free = np.flatnonzero((prices > 0) | (gradient < 0))
    step = np.zeros(len(prices))
    if len(free):
        inner = curvature[np.ix_(free, free)]
        ridge = RIDGE * (float(np.trace(inner)) + 1e-12) + 1e-300
        step[free] = np.linalg.solve(inner + ridge * np.eye(len(free)), -gradient[free])
    return step
