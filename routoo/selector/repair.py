"""Makes a choice that was found by prices keep every limit, then fills what is left.

Moves are taken in bulk, the least regret at the prices first, as long as no limit is newly broken.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int16, Int64

from routoo.selector.resources import Block

ROUNDS = 200
FILL_ROUNDS = 40
MOVED, STUCK = -1, -2


@dataclass(slots=True)
class Repair:
    """Jobs that may move, their choice, and what all jobs draw."""

    block: Block
    value: Float64[np.ndarray, "columns jobs"]
    """Gains less draws at the prices."""
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
            obstacle = self._relieve_one(int(np.argmin(self.slack)), closed)
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

    def _relieve_one(self, worst: int, closed: set[int]) -> int:
        """Relieve one resource; returns MOVED, STUCK, or the resource that stood in the way."""
        here = np.arange(len(self.column))
        more = self._more()
        shut = [k for k, left in enumerate(self.slack) if k != worst and (left < 0 or k in closed)]
        able = (more[worst] < 0) & ~np.isneginf(self.value) & (more[shut] <= 0).all(axis=0)
        regret = self.value[self.column, here] - self.value
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rate = np.where(able, regret / -more[worst], np.inf)
        column = rate.argmin(axis=0)
        jobs = np.flatnonzero(able.any(axis=0))
        if len(jobs) == 0:
            return STUCK
        jobs = jobs[np.argsort(rate[column[jobs], jobs], kind="stable")]
        freed = np.cumsum(-more[worst][column[jobs], jobs])
        jobs = jobs[: int(np.searchsorted(freed, -self.slack[worst])) + 1]
        return self._take(jobs, column[jobs], more[:, column[jobs], jobs])

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
        over = (drawn > np.maximum(self.slack, 0.0)[:, None]) & (more > 0)
        bad = over.any(axis=0)
        count = int(np.argmax(bad)) if bad.any() else len(jobs)
        if count == 0:
            return int(np.argmax(over[:, 0]))
        self.column[jobs[:count]] = column[:count]
        self.slack -= drawn[:, count - 1]
        return MOVED
