"""Finds prices for all limits at once, then repairs the choice that jobs make at these prices.

The prices minimise the Lagrangian dual, which is convex, but not smooth at prices where a job's
choice changes. Smoothed by a soft maximum it is minimised by projected Newton steps, with less
smoothing in each. On many jobs that is done on a sample, whose curvature then serves a few steps on
the slope of all jobs.

Source: Nesterov, Smooth minimization of non-smooth functions, Mathematical Programming 103 (2005).

The repair moves jobs in bulk, the least regret at the prices first, as long as no limit is newly
broken; then it fills what the limits leave.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from jaxtyping import Float64, Int, Int16, Int64

from routoo.selector.problem import Problem, exact_sum
from routoo.selector.solution import (
    Proof,
    Solution,
    SolveStatus,
    advise_limits,
    conclude,
    infeasible,
)
from routoo.selector.solvers.lagrangian.solver import solve_lagrangian
from routoo.selector.solvers.programme import (
    Block,
    DualPoint,
    Programme,
    evaluate_dual,
    least_gain,
)

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
MOVABLE_JOBS = 20_000
"""Jobs looked at in a repair: those whose choice is nearest to a change at the prices."""
SAFETY = 1e-12
"""Share of a limit kept free where adding in floats would break it."""
ROUNDS = 200
"""Most rounds of moves that relieve broken limits."""
FILL_ROUNDS = 40
"""Most rounds of moves that use what the limits leave."""
LEAST_WEIGHT = 1e-3
"""Weight of a broken limit whose price is 0, relative to the highest price."""
MOVED, STUCK = -1, -2
"""Results of a round: jobs were moved, or none could be."""


def solve_dual_ascent(problem: Problem, *, allow_partial: bool = False) -> Solution:
    """Solve a problem with any number of limits.

    Args:
        problem: The problem.
        allow_partial: Where not all jobs can be served within the limits, leave some without a
            model.

    Returns:
        A choice within the limits with its bound; or status `infeasible`, whose advice
        distinguishes a proof from a search that found no choice.
    """
    programme = Programme.of(problem)
    relaxed = solve_lagrangian(replace(problem, capacities=()))
    if relaxed.feasible and keeps_limits(programme, relaxed.choice):
        return relaxed
    solution = _solve(problem, programme) if relaxed.feasible else relaxed
    if allow_partial and not solution.feasible:
        partial = _solve(problem, Programme.of(problem, idle=True))
        return replace(partial, status=SolveStatus.INFEASIBLE, advice=solution.advice)
    return solution


def keeps_limits(programme: Programme, choice: Int[np.ndarray, " jobs"]) -> bool:
    """Return whether a choice keeps every limit of a programme, exactly."""
    return all(left >= 0 for left in _slack(programme, choice))


def advise_limits_to_relax(problem: Problem, programme: Programme, *, proved: bool) -> str:
    """Return advice on what to relax so that the best choice found would keep all limits.

    Args:
        problem: The problem, which no choice is known to solve.
        programme: The same.
        proved: Whether it is known that there is no such choice.
    """
    dual, choice, _ = _best_choice(programme)
    proved = proved or dual.bound < least_gain(programme)
    return advise_limits(problem, _overdrawn(programme, choice), proved=proved)


def _solve(problem: Problem, programme: Programme) -> Solution:
    dual, choice, kept = _best_choice(programme)
    if kept:
        return _conclude(problem, programme, dual, choice)
    return infeasible(problem, advise_limits_to_relax(problem, programme, proved=False))


def _best_choice(programme: Programme) -> tuple[DualPoint, Int16[np.ndarray, " jobs"], bool]:
    """Return prices, the best choice found, and whether it keeps all limits."""
    dual = find_prices(programme)
    movable = _movable(programme, dual)
    choice = _repair(programme, dual, movable, 0.0)
    if keeps_limits(programme, choice):
        return dual, choice, True
    choice = _repair(programme, dual, movable, SAFETY)
    return dual, choice, keeps_limits(programme, choice)


def _conclude(
    problem: Problem, programme: Programme, dual: DualPoint, choice: Int16[np.ndarray, " jobs"]
) -> Solution:
    scales = np.array([item.scale for item in programme.resources])
    names = [item.name for item in programme.resources]
    prices = dict(zip(names, (dual.prices / scales).tolist(), strict=True))
    if programme.minimise_cost:
        per_point = prices.pop("min_mean_quality")
        proof = Proof(-dual.bound, 1 / per_point if per_point else 0.0, prices=prices)
    else:
        per_usd = prices.pop("budget_usd", 0.0) + programme.floor_price
        proof = Proof(dual.bound, per_usd, prices=prices)
    return conclude(problem, programme.table, choice, proof)


def _slack(programme: Programme, choice: Int[np.ndarray, " jobs"]) -> list[Fraction]:
    """Return exactly what each limit leaves."""
    return [item.limit - exact_sum(programme.drawn(choice, item)) for item in programme.resources]


def _overdrawn(
    programme: Programme, choice: Int16[np.ndarray, " jobs"]
) -> dict[str, tuple[Fraction, Fraction]]:
    """Return limit and excess of each limit that is broken, by name."""
    pairs = zip(programme.resources, _slack(programme, choice), strict=True)
    return {item.name: (item.limit, -left) for item, left in pairs if left < 0}


def _movable(programme: Programme, dual: DualPoint) -> Int64[np.ndarray, " movable"]:
    """Return the served jobs with the smallest regret of their second choice."""
    if programme.table.jobs <= MOVABLE_JOBS:
        return np.flatnonzero(dual.choice >= 0)
    regret = np.empty(programme.table.jobs)
    for part, block in programme.blocks():
        value = block.value(dual.prices)
        column = np.maximum(dual.choice[part], 0)
        rows = np.arange(len(column))
        best = value[column, rows]
        value[column, rows] = -np.inf
        with np.errstate(invalid="ignore"):
            regret[part] = best - value.max(axis=0)
    regret[dual.choice < 0] = np.inf
    near = np.argpartition(regret, MOVABLE_JOBS)[:MOVABLE_JOBS]
    return np.sort(near[np.isfinite(regret[near])])


def _repair(
    programme: Programme, dual: DualPoint, movable: Int64[np.ndarray, " movable"], safety: float
) -> Int16[np.ndarray, " jobs"]:
    """Return the choice at the prices, moved within the limits if such moves were found."""
    block = programme.rows(movable)
    choice = dual.choice.copy()
    slack: Float64[np.ndarray, " resources"] = np.array(
        [
            float(left) / item.scale - safety
            for item, left in zip(programme.resources, _slack(programme, choice), strict=True)
        ]
    )
    value = block.value(dual.prices)
    repair = _Repair(block, value, dual.prices, choice[movable], slack)
    if repair.relieve():
        repair.fill()
    choice[movable] = repair.column
    return choice


@dataclass(slots=True)
class _Repair:
    """Moves some jobs to other options until all limits hold."""

    block: Block
    value: Float64[np.ndarray, "columns jobs"]
    """Gains less draws at the prices."""
    prices: Float64[np.ndarray, " resources"]
    column: Int16[np.ndarray, " jobs"]
    """Changed in place."""
    slack: Float64[np.ndarray, " resources"]
    """Limits less draws of all jobs, in units of their scales; changed in place."""

    def relieve(self) -> bool:
        """Move jobs until no limit is broken; False if no such moves were found."""
        closed: set[int] = set()
        for _ in range(ROUNDS):
            if (self.slack >= 0).all():
                return True
            obstacle = self._relieve_some(closed)
            if obstacle == MOVED:
                closed.clear()
            elif obstacle == STUCK or obstacle in closed:
                return False
            else:
                closed.add(obstacle)
        return bool((self.slack >= 0).all())

    def fill(self) -> None:
        """Move jobs to better models while that fits."""
        for _ in range(FILL_ROUNDS):
            here = np.arange(len(self.column))
            gain = self.block.gain - self.block.gain[self.column, here]
            more = self._more()
            fits = (gain > 0) & (more <= self.slack[:, None, None]).all(axis=0)
            if not fits.any():
                return
            regret = self.value[self.column, here] - self.value
            column = np.where(fits, regret - gain * 1e-9, np.inf).argmin(axis=0)
            jobs = np.flatnonzero(fits.any(axis=0))
            jobs = jobs[np.argsort(regret[column[jobs], jobs], kind="stable")]
            self._take(jobs, column[jobs], more[:, column[jobs], jobs])

    def _relieve_some(self, closed: set[int]) -> int:
        """Reduce the excess over broken limits; return MOVED, STUCK, or the resource in the way."""
        here = np.arange(len(self.column))
        more, broken = self._more(), self.slack < 0
        weight = np.where(broken, self.prices + LEAST_WEIGHT * (self.prices.max() or 1.0), 0.0)
        relief = -np.tensordot(weight, more, axes=1)
        able = (relief > 0) & ~np.isneginf(self.value) & (more[list(closed)] <= 0).all(axis=0)
        regret = self.value[self.column, here] - self.value
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rate = np.where(able, regret / relief, np.inf)
        column = rate.argmin(axis=0)
        jobs = np.flatnonzero(able.any(axis=0))
        if len(jobs) == 0:
            return STUCK
        jobs = jobs[np.argsort(rate[column[jobs], jobs], kind="stable")]
        moved = more[:, column[jobs], jobs]
        # Once a limit holds again it must not be broken by the rest: stop there and look anew.
        mended = (np.cumsum(moved[broken], axis=1) <= self.slack[broken, None]).any(axis=0)
        last = int(np.argmax(mended)) + 1 if mended.any() else len(jobs)
        return self._take(jobs[:last], column[jobs[:last]], moved[:, :last])

    def _more(self) -> Float64[np.ndarray, "resources columns jobs"]:
        here = np.arange(len(self.column))
        more: Float64[np.ndarray, "resources columns jobs"] = (
            self.block.draw - self.block.draw[:, self.column, here][:, None, :]
        )
        return more

    def _take(
        self,
        jobs: Int64[np.ndarray, " moves"],
        column: Int64[np.ndarray, " moves"],
        more: Float64[np.ndarray, "resources moves"],
    ) -> int:
        """Take the longest run of moves that breaks nothing; returns MOVED or what stopped it."""
        drawn = np.cumsum(more, axis=1)
        over = (drawn > self.slack[:, None]) & (more > 0) & (self.slack >= 0)[:, None]
        bad = over.any(axis=0)
        count = int(np.argmax(bad)) if bad.any() else len(jobs)
        if count == 0:
            return int(np.argmax(over[:, 0]))
        self.column[jobs[:count]] = column[:count]
        self.slack -= drawn[:, count - 1]
        return MOVED


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
