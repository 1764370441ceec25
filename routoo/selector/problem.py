"""States what is to be decided: one option for each job, under limits on the whole batch.

An option is what may be done with a job, a column of the problem: today each candidate model is one
option, asked directly. Solvers read the numbers as an `OptionTable`: in blocks, options first, in
double precision. Sums of money are made without rounding: a budget that must hold can't be left to
it.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from routoo.errors import InputError

Usd = float | Decimal
"""An amount in US dollars; exact comparisons take either at its exact value."""
_DIMENSIONS = 2
"""Jobs x options."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A limit on what some options draw together, such as an endpoint's calls in the time left."""

    name: str
    """Names the limit in advice and shadow prices."""
    options: tuple[int, ...]
    """Columns that draw on it."""
    limit: float
    """Most calls, or most units of `use`, over the whole batch."""
    use: Float[np.ndarray, "jobs options"] | None = None
    """Units that each call would take (tokens, for example), at least 0; None counts calls."""


@dataclass(frozen=True, slots=True)
class Problem:
    """The expected quality and cost of every job by every option, and the batch's limits.

    Without `min_mean_quality` the objective is the most quality the money buys. With it, the least
    cost at which the mean quality of the jobs that can be served is reached; a budget given beside
    it must hold too.
    """

    quality: Float[np.ndarray, "jobs options"]
    """Expected quality of a job's answer by an option; more is better."""
    cost_usd: Float[np.ndarray, "jobs options"]
    """Expected cost of the option, in USD, at least 0."""
    allowed: Bool[np.ndarray, "jobs options"] | None = None
    """Pairs that the job's own limits admit; None admits all."""
    budget_usd: Usd | None = None
    """Most that the chosen calls may cost together, in USD."""
    min_mean_quality: float | None = None
    """Least mean quality over the jobs that have an allowed option."""
    willingness_to_pay_usd: float | None = None
    """USD that one more point of quality on one job is worth; dearer gains are left out."""
    capacities: tuple[Capacity, ...] = field(default=())
    """Further limits that must hold together with the budget."""

    def __post_init__(self) -> None:
        """Check the arrays and limits."""
        _check_shapes(self)
        _check_numbers(self)
        _check_limits(self)

    @property
    def jobs(self) -> int:
        """Number of jobs."""
        return int(self.quality.shape[0])

    @property
    def options(self) -> int:
        """Number of options, the columns."""
        return int(self.quality.shape[1])

    @property
    def servable_jobs(self) -> int:
        """Number of jobs that have an allowed option."""
        if self.allowed is None:
            return self.jobs
        return int(np.count_nonzero(self.allowed.any(axis=1)))

    @property
    def floor_price_per_usd(self) -> float:
        """Least quality that a dollar must buy to be worth spending."""
        return 0.0 if self.willingness_to_pay_usd is None else 1.0 / self.willingness_to_pay_usd

    @property
    def exact_budget_usd(self) -> Fraction | None:
        """The budget, exactly; None where there is none."""
        if self.budget_usd is None:
            return None
        decimal = isinstance(self.budget_usd, Decimal)
        return Fraction(self.budget_usd if decimal else float(self.budget_usd))


def match_model(problem: Problem, model: int, ratio: float) -> float:
    """Return the mean quality that is `ratio` times a model's own, as `min_mean_quality` means it.

    Args:
        problem: The jobs; its limits are not looked at.
        model: Column of the model to match.
        ratio: Share of its quality wanted, for example 0.98.

    Returns:
        A target in units of quality, over the jobs that have an allowed option.
    """
    column = problem.quality[:, model].astype(np.float64)
    if problem.allowed is not None:
        column = column[problem.allowed.any(axis=1)]
    return ratio * float(column.mean()) if len(column) else 0.0


def _check_shapes(problem: Problem) -> None:
    shape = problem.quality.shape
    if len(shape) != _DIMENSIONS or shape[1] == 0:
        raise InputError("quality must have the shape jobs x options", value=shape)
    others = {"cost_usd": problem.cost_usd, "allowed": problem.allowed}
    others |= {f"use of capacity {item.name}": item.use for item in problem.capacities}
    for name, array in others.items():
        if array is not None and array.shape != shape:
            raise InputError(f"{name} must have the shape of quality, {shape}", value=array.shape)


def _check_numbers(problem: Problem) -> None:
    named = {"quality": problem.quality, "cost_usd": problem.cost_usd}
    named |= {item.name: item.use for item in problem.capacities if item.use is not None}
    for name, array in named.items():
        least = float("-inf") if name == "quality" else 0.0
        if not _sound(array, least) and not _sound_where_allowed(problem, array, least):
            raise InputError(
                f"{name} must be finite" + ("" if name == "quality" else " and not negative"),
                remedy="Rule the pair out with `allowed` where the number is unknown",
            )


def _sound(array: np.ndarray, least: float) -> bool:
    if array.size == 0:
        return True
    low, high = float(array.min()), float(array.max())
    return bool(np.isfinite(low) and np.isfinite(high) and low >= least)


def _sound_where_allowed(
    problem: Problem, array: Float[np.ndarray, "jobs options"], least: float
) -> bool:
    return problem.allowed is not None and _sound(array[problem.allowed], least)


def _check_limits(problem: Problem) -> None:
    if problem.budget_usd is not None and not 0 <= problem.budget_usd < float("inf"):
        raise InputError(
            "budget_usd must be a finite amount of at least 0", value=problem.budget_usd
        )
    willing = problem.willingness_to_pay_usd
    if willing is not None and not 0 < willing < float("inf"):
        raise InputError("willingness_to_pay_usd must be a finite amount above 0", value=willing)
    if willing is not None and problem.min_mean_quality is not None:
        raise InputError("min_mean_quality and willingness_to_pay_usd can't both be the objective")
    target = problem.min_mean_quality
    if target is not None and not np.isfinite(target):
        raise InputError("min_mean_quality must be finite", value=target)
    for item in problem.capacities:
        if not item.limit >= 0 or not set(item.options) <= set(range(problem.options)):
            raise InputError(
                f"capacity {item.name} needs a limit of at least 0 and columns of the pool",
                value=(item.limit, item.options),
            )


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
