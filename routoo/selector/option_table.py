"""Lays out a problem's numbers for solvers: in blocks, options first, in double precision.

Sums of money are made without rounding here: a budget that must hold can't be left to it.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from routoo.selector.problem import Problem

_MANTISSA_BITS = 53
_LOW_BITS = 26


@dataclass(frozen=True, slots=True)
class OptionTable:
    """Holds rows of a problem; pairs that are ruled out have quality minus infinity and no cost."""

    quality: Float[np.ndarray, "jobs options"]
    cost_usd: Float[np.ndarray, "jobs options"]
    allowed: Bool[np.ndarray, "jobs options"] | None
    idle: bool = False
    """Offer one more column: no answer, no quality, no cost."""

    @classmethod
    def of(cls, problem: Problem, *, idle: bool = False) -> "OptionTable":
        """Return the whole problem without copying it."""
        return cls(problem.quality, problem.cost_usd, problem.allowed, idle)

    @property
    def jobs(self) -> int:
        """Number of rows."""
        return int(self.quality.shape[0])

    @property
    def options(self) -> int:
        """Number of the problem's options."""
        return int(self.quality.shape[1])

    @property
    def columns(self) -> int:
        """Number of columns: the options, and the idle one where it is offered."""
        return self.options + self.idle

    def rows(self, index: Int[np.ndarray, " rows"] | slice) -> "OptionTable":
        """Return some rows; a slice is not copied."""
        allowed = None if self.allowed is None else self.allowed[index]
        return OptionTable(self.quality[index], self.cost_usd[index], allowed, self.idle)

    def read(
        self,
        start: int,
        stop: int,
        quality: Float64[np.ndarray, "columns rows"],
        cost_usd: Float64[np.ndarray, "columns rows"],
    ) -> None:
        """Copy the rows from start to stop into two buffers of the right width."""
        options = self.options
        np.copyto(quality[:options], self.quality[start:stop].T)
        np.copyto(cost_usd[:options], self.cost_usd[start:stop].T)
        if self.allowed is not None:
            ruled_out = ~self.allowed[start:stop].T
            np.copyto(quality[:options], -np.inf, where=ruled_out)
            np.copyto(cost_usd[:options], 0.0, where=ruled_out)
        if self.idle:
            quality[options] = cost_usd[options] = 0.0

    def dense(
        self,
    ) -> tuple[Float64[np.ndarray, "columns rows"], Float64[np.ndarray, "columns rows"]]:
        """Return quality and cost of all rows as fresh arrays."""
        quality = np.empty((self.columns, self.jobs))
        cost_usd = np.empty((self.columns, self.jobs))
        self.read(0, self.jobs, quality, cost_usd)
        return quality, cost_usd

    def pick(
        self, choice: Int[np.ndarray, " jobs"]
    ) -> tuple[Float64[np.ndarray, " served"], Float64[np.ndarray, " served"]]:
        """Return quality and cost of the chosen pairs, of the jobs that have a model."""
        rows = np.flatnonzero((choice >= 0) & (choice < self.options))
        column = choice[rows]
        quality = self.quality[rows, column].astype(np.float64)
        return quality, self.cost_usd[rows, column].astype(np.float64)


def exact_sum(values: Float[np.ndarray, " values"]) -> Fraction:
    """Return the sum of the values without any rounding.

    Mantissas are summed as integers, apart for each exponent. Their halves have at most 27 bits, so
    float64 adds 2**26 of them without error.

    Args:
        values: Finite floats, at most 2**26 of them.

    Returns:
        Their exact sum.
    """
    if len(values) == 0:
        return Fraction(0)
    mantissa, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    least = int(exponent.min())
    exponent -= least
    whole = np.ldexp(mantissa, _MANTISSA_BITS).astype(np.int64)
    high = np.bincount(exponent, weights=whole >> _LOW_BITS)
    low = np.bincount(exponent, weights=whole & ((1 << _LOW_BITS) - 1))
    total = 0
    for power in range(len(high)):
        total += ((int(high[power]) << _LOW_BITS) + int(low[power])) << power
    return Fraction(total) * Fraction(2) ** (least - _MANTISSA_BITS)
