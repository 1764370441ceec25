"""A choice part of the way along the path, and what its neighbours on the path can improve."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Int16, Int64

from routoo.selector.option_table import Table
from routoo.selector.solvers.lagrangian.local_search import Exchange, polish
from routoo.selector.solvers.lagrangian.price_path import Path

NEIGHBOURS = 256
"""Steps on either side of where the path was left whose jobs are looked at again."""


@dataclass(slots=True)
class Walk:
    """The choice after the first steps of a path."""

    path: Path
    taken: int
    choice: Int16[np.ndarray, " jobs"]

    @classmethod
    def along(cls, path: Path, taken: int) -> "Walk":
        """Take the first steps of a path; of a job's several steps the last one stands."""
        choice = path.choice.copy()
        choice[path.steps.job[:taken]] = path.steps.column[:taken]
        return cls(path, taken, choice)

    def price(self, step: int) -> float:
        """Return the quality per USD that a step buys; past the last one, where the path ends."""
        prices = self.path.steps.price
        return float(prices[step]) if step < len(prices) else self.path.low_price

    def spend(self, table: Table, slack: Fraction, *, floor_price: float, enough: float) -> None:
        """Buy more quality with the money left, until that much was gained."""
        jobs = self._neighbours(table)
        quality, cost = table.rows(jobs).dense()
        exchange = Exchange(quality - floor_price * cost, cost, self.choice[jobs], slack)
        polish(exchange, enough)
        self.choice[jobs] = exchange.column

    def save(self, table: Table, surplus: Fraction, *, enough: float) -> None:
        """Save money with the quality that is left over, until that much was saved."""
        jobs = self._neighbours(table)
        quality, cost = table.rows(jobs).dense()
        saving = np.where(np.isneginf(quality), -np.inf, -cost)
        exchange = Exchange(saving, -quality, self.choice[jobs], surplus)
        polish(exchange, enough)
        self.choice[jobs] = exchange.column

    def _neighbours(self, table: Table) -> Int64[np.ndarray, " jobs"]:
        """Return served jobs whose steps are about worth the price at which the walk ended."""
        if table.jobs <= NEIGHBOURS:
            return np.flatnonzero(self.choice >= 0)
        near = slice(max(0, self.taken - NEIGHBOURS), self.taken + NEIGHBOURS)
        return np.unique(self.path.steps.job[near])
