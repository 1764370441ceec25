"""Makes a choice that was found by prices keep every limit, then fills what is left.

Moves are taken in bulk, the least regret at the prices first, as long as no limit is newly broken.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int16, Int64

from routoo.selector.solvers.programme import Block

ROUNDS = 200
FILL_ROUNDS = 40
LEAST_WEIGHT = 1e-3
"""Weight of a broken limit whose price is 0, relative to the highest price."""
MOVED, STUCK = -1, -2


@dataclass(slots=True)
class Repair:
    """Jobs that may move, their choice, and what all jobs draw."""

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
        """Lessen the priced excess; returns MOVED, STUCK, or the resource that stood in the way."""
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
