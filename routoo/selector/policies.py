"""Policies of probes as further columns of a problem.

Each is valued for blocks of jobs, several at once. Where a job has one probe only, it is the best
of those that a cheap estimate leaves: what a probe's policy is worth depends for the most part on a
few numbers, how good the probe looks, and what the best other models look worth at the price. A
polynomial of these, fitted to a sample of the batch's own jobs, comes near enough that most jobs
have one probe left to be looked at closely.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int16

from routoo.selector.probe_model import BestOthers, JobProbes, ProbeModel
from routoo.selector.problem import Problem
from routoo.selector.second_calls import ProbeOutcomes

BLOCK_JOBS = 1 << 15
"""Jobs whose judgements are in memory at once."""
BLOCK_COMPARED_JOBS = 2048
"""The same where second answers are compared, of which many outcomes are looked at."""
LEAST_ESCALATION = 1e-3
"""A policy that escalates less often is the direct call, but for rounding."""
MOST_THREADS = 4
SAMPLE_JOBS = 4096
"""Jobs that a screen of probes is fitted to."""
SAMPLE_SEED = 20_261_127
MARGIN = 1.5
"""Probes are kept whose estimate is within so many standard errors of the best one's."""
_FEATURES = 11
_RIDGE = 1e-6
_FAR = 0.4
"""A model that looks worse than the best by more than this counts alike."""
_LEAST_WORTH = -1.0


@dataclass(frozen=True, slots=True)
class Policies:
    """The columns of a problem beyond the models themselves."""

    models: int
    """Number of columns before the first policy."""
    probe: tuple[int, ...] = ()
    """Column of each policy's probe."""
    price: tuple[float, ...] = ()
    """Quality per USD that each policy is made for."""
    own: Int16[np.ndarray, " jobs"] | None = None
    """Each job's only probe, where a price's policies share a column; None = a column for each."""
    seconds: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Columns of the models whose answers may be compared with a probe's."""

    @property
    def rivals_at(self) -> float | None:
        """Price at which a probe's few rivals are picked; None = all models are its rivals."""
        return None if self.own is None else median(self.prices)

    @property
    def probes(self) -> tuple[int, ...]:
        """The probes, each once."""
        return tuple(dict.fromkeys(self.probe))

    @property
    def prices(self) -> tuple[float, ...]:
        """The prices, each once."""
        return tuple(dict.fromkeys(self.price))

    @property
    def columns(self) -> int:
        """Number of columns beside the models'."""
        return len(self.probe if self.own is None else self.prices)

    def first(self, choice: Int[np.ndarray, " jobs"]) -> Int[np.ndarray, " jobs"]:
        """Return the column of the model that each job asks first; -1 where it has none."""
        if self.own is not None:
            return np.where(choice >= self.models, self.own, choice).astype(choice.dtype)
        columns = np.array([*range(self.models), *self.probe, -1])
        return np.asarray(columns[choice], choice.dtype)

    def taken(
        self, choice: Int[np.ndarray, " jobs"]
    ) -> Iterator[tuple[int, float, Int[np.ndarray, " some"]]]:
        """Yield of each policy its probe, its price and the jobs that choose it."""
        for at, (probe, price) in enumerate(zip(self.probe, self.price, strict=True)):
            if self.own is None:
                yield probe, price, np.flatnonzero(choice == self.models + at)
            else:
                column = self.models + self.prices.index(price)
                yield probe, price, np.flatnonzero((choice == column) & (self.own == probe))


def extended(problem: Problem, known: ProbeModel, policies: Policies) -> Problem:
    """Return a problem with given policies as further columns."""
    shape = (problem.jobs, problem.options + policies.columns)
    quality = np.empty(shape, np.float32)
    cost = np.empty(shape, problem.cost_usd.dtype)
    allowed = np.empty(shape, np.bool_)
    old = slice(0, problem.options)
    uses = [np.zeros(shape, np.float32) for _ in problem.capacities]
    for use, item in zip(uses, problem.capacities, strict=True):
        columns = list(item.options)
        use[:, columns] = 1.0 if item.use is None else item.use[:, columns]

    known = known.with_seconds(policies.seconds)
    own = np.empty(problem.jobs, np.int16) if policies.own is None else policies.own

    screen = None
    if policies.own is not None:
        screen = ProbeScreen.fit(known, policies.probes, median(policies.prices))
    compares = known.comparisons is not None and any(policies.seconds.values())
    block = BLOCK_COMPARED_JOBS if compares else BLOCK_JOBS

    def fill(start: int) -> None:
        rows = slice(start, min(start + block, problem.jobs))
        quality[rows, old], cost[rows, old] = problem.quality[rows], problem.cost_usd[rows]
        allowed[rows, old] = True if problem.allowed is None else problem.allowed[rows]
        table = _Columns(
            quality[rows], cost[rows], allowed[rows], [use[rows] for use in uses], own[rows]
        )
        jobs = np.arange(rows.start, rows.stop)
        if policies.own is None:
            _fill(table, policies, known, jobs)
        else:
            _fill_best(table, policies, known, jobs, screen)

    starts = range(0, problem.jobs, block)
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as threads:
        list(threads.map(fill, starts))
    every, limits = tuple(range(shape[1])), zip(problem.capacities, uses, strict=True)
    capacities = tuple(replace(item, options=every, use=use) for item, use in limits)
    return replace(problem, quality=quality, cost_usd=cost, allowed=allowed, capacities=capacities)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Some rows of an extended problem, filled in place."""

    quality: Float32[np.ndarray, "rows options"]
    cost: Float[np.ndarray, "rows options"]
    allowed: Bool[np.ndarray, "rows options"]
    uses: list[Float32[np.ndarray, "rows options"]]
    own: Int16[np.ndarray, " rows"]
    """Each job's only probe, where it has one."""


def _fill(
    table: _Columns, policies: Policies, known: ProbeModel, jobs: Int[np.ndarray, " rows"]
) -> None:
    expected, rows = known.of_jobs(jobs), np.arange(len(jobs))
    for probe in policies.probes:
        outcomes = expected.outcomes(probe)
        for at, price in enumerate(policies.price):
            if policies.probe[at] == probe:
                made = _made(table, known, outcomes, (price,), jobs, rows)
                _write(table, policies.models + at, 1, [made])


def _fill_best(
    table: _Columns,
    policies: Policies,
    known: ProbeModel,
    jobs: Int[np.ndarray, " rows"],
    screen: "ProbeScreen | None",
) -> None:
    """Fill in each job's best probe between the prices, and note which it is."""
    prices, expected = policies.prices, known.of_jobs(jobs)
    every = dict.fromkeys(policies.probes, np.arange(len(jobs)))
    looked_at = every if screen is None else screen.candidates(expected, table.allowed)
    best, parts = np.full(len(jobs), -np.inf), []
    table.own[:] = policies.probe[0]
    for probe, rows in looked_at.items():
        if len(rows):
            outcomes = expected.outcomes(probe, median(prices), rows)
            made = _made(table, known, outcomes, prices, jobs[rows], rows)
            worth = made.worth(prices)
            worth[~table.allowed[rows, probe]] = -np.inf
            better = worth > best[rows]
            table.own[rows[better]] = probe
            best[rows] = np.maximum(best[rows], worth)
            parts.append(made)
    own = [made.where(table.own) for made in parts]
    _write(table, policies.models, policies.columns, own)


@dataclass(frozen=True, slots=True)
class _Made:
    """The policies of one probe for some prices, of some rows of a table."""

    rows: Int[np.ndarray, " some"]
    probe: int
    quality: Float32[np.ndarray, "prices some"]
    cost_usd: Float[np.ndarray, "prices some"]
    """Of all calls."""
    allowed: Bool[np.ndarray, "prices some"]
    uses: list[Float[np.ndarray, "prices some"]]
    """Of each capacity, of all calls."""

    def worth(self, prices: Sequence[float]) -> Float[np.ndarray, " some"]:
        """Return what they are worth at their prices, on the whole."""
        return np.asarray(sum(self.quality - np.array(prices)[:, None] * self.cost_usd))

    def where(self, own: Int16[np.ndarray, " rows"]) -> "_Made":
        """Return them for those of the rows whose own probe it is."""
        some = np.flatnonzero(own[self.rows] == self.probe)
        return _Made(
            self.rows[some],
            self.probe,
            self.quality.take(some, axis=1),
            self.cost_usd.take(some, axis=1),
            self.allowed.take(some, axis=1),
            [use.take(some, axis=1) for use in self.uses],
        )


def _made(
    table: _Columns,
    known: ProbeModel,
    outcomes: ProbeOutcomes,
    prices: Sequence[float],
    jobs: Int[np.ndarray, " some"],
    rows: Int[np.ndarray, " some"],
) -> _Made:
    """Return a probe's policies of some rows of the table, whose jobs are given."""
    probe, models = int(outcomes.order[0, 0]), known.quality.shape[1]
    first = rows * table.quality.shape[1] + probe
    first_usd, may = (array.reshape(-1).take(first) for array in (table.cost, table.allowed))
    quality = np.empty((len(prices), len(rows)), np.float32)
    cost, allowed = np.empty(quality.shape, table.cost.dtype), np.empty(quality.shape, np.bool_)
    uses = [np.empty(quality.shape, np.float32) for _ in table.uses]
    weight = known.served(probe) * (1 if known.weight is None else known.weight[jobs])
    for at, price in enumerate(prices):
        calls = outcomes.at_price(price)
        np.multiply(calls.quality, weight, out=quality[at])
        np.add(first_usd, calls.cost_usd, out=cost[at])
        np.logical_and(may, calls.accepted < 1 - LEAST_ESCALATION, out=allowed[at])
        for taken, use in zip(uses, table.uses, strict=True):
            taken[at] = use[rows, probe] + calls.expected(use[rows, :models])
    return _Made(rows, probe, quality, cost, allowed, uses)


def _write(table: _Columns, column: int, count: int, parts: Sequence[_Made]) -> None:
    """Write so many columns from one on, of which the parts have different rows."""
    shape, columns = (count, len(table.own)), slice(column, column + count)
    quality, cost = np.zeros(shape, np.float32), np.zeros(shape, table.cost.dtype)
    allowed = np.zeros(shape, np.bool_)
    for part in parts:
        rows = part.rows
        quality[:, rows], cost[:, rows], allowed[:, rows] = (
            part.quality,
            part.cost_usd,
            part.allowed,
        )
        for whole, use in zip(table.uses, part.uses, strict=True):
            whole[rows, columns] = use.T
    table.quality[:, columns], table.cost[:, columns] = quality.T, cost.T
    table.allowed[:, columns] = allowed.T


@dataclass(frozen=True, slots=True)
class ProbeScreen:
    """Estimates of what probes are worth at a price."""

    price: float
    weight: Mapping[int, Float32[np.ndarray, " features"]]
    """By the probe's column."""
    margin: float
    """A probe whose estimate is lower than the best one's by more is left out."""

    @classmethod
    def fit(cls, known: ProbeModel, probes: tuple[int, ...], price: float) -> "ProbeScreen | None":
        """Fit to a sample of the jobs; None where they are too few or there is nothing to choose.

        Args:
            known: The probes of all jobs.
            probes: Columns of those to choose from.
            price: Quality that a dollar must buy.
        """
        jobs = len(known.quality)
        if jobs <= SAMPLE_JOBS or len(probes) == 1:
            return None
        draw = np.random.default_rng(SAMPLE_SEED).choice(jobs, SAMPLE_JOBS, replace=False)
        sample = known.of_jobs(np.sort(draw))
        weight, errors = {}, []
        for probe in probes:
            kept = sample.outcomes(probe, price).kept(price)
            features = _features(sample, probe, sample.best_others(probe, price))
            weight[probe] = _least_squares(features, kept)
            found = np.einsum("fj,f->j", features, weight[probe])
            errors.append((kept - found) * known.served(probe))
        return cls(price, weight, MARGIN * float(np.std(errors)))

    def candidates(
        self, expected: JobProbes, allowed: Bool[np.ndarray, "jobs models"]
    ) -> dict[int, Int[np.ndarray, " some"]]:
        """Return for each probe the jobs of which it may be the best.

        Args:
            expected: The jobs.
            allowed: Models that each job may ask first.
        """
        charge = self.price / (1 if expected.shared is None else expected.shared)
        worth = np.empty((len(self.weight), len(allowed)), np.float32)
        least = np.full(len(allowed), -np.inf, np.float32)
        for row, (probe, weight) in zip(worth, self.weight.items(), strict=True):
            others = expected.best_others(probe, self.price)
            features = _features(expected, probe, others)
            row[:] = np.einsum("fj,f->j", features, weight) * expected.known.served(probe)
            np.subtract(row, expected.cost_usd[probe] * charge, out=row)
            row[~allowed[:, probe]] = -np.inf
            np.maximum(least, row, out=least)
            np.maximum(least, _asked_directly(expected, others, allowed), out=least)
        least -= np.float32(self.margin)
        return {
            probe: np.flatnonzero(row >= least)
            for row, probe in zip(worth, self.weight, strict=True)
        }


def _features(
    expected: JobProbes, probe: int, others: BestOthers
) -> Float32[np.ndarray, "features jobs"]:
    """Return what a probe's worth is estimated from."""
    model, best, second = others
    right, own = _of_each(expected.quality, model), expected.quality[probe]
    answered, features = expected.known.answered, np.empty((_FEATURES, len(model)), np.float32)
    if answered is not None:
        # Where the other model fails, the probe's answer is kept.
        kept = np.maximum(1 - answered, 0).astype(np.float32).take(model) * (own - right)
        best, right = best + kept, right + kept
    one, two, distance, spread, ahead, spread_of_best, reach = features[:7]
    features[7] = 1
    one[:] = own
    np.maximum(best, _LEAST_WORTH, out=two)
    np.abs(one - two, out=distance)
    np.multiply(own, 1 - own, out=spread)
    np.minimum(best - second, _FAR, out=ahead)
    np.multiply(right, 1 - right, out=spread_of_best)
    # A judgement moves the probe's quality by about its spread; only then can it change the choice.
    np.maximum(spread - distance, 0, out=reach)
    np.multiply(reach, (reach, ahead, spread_of_best), out=features[8:])
    return features


def _asked_directly(
    expected: JobProbes, others: BestOthers, allowed: Bool[np.ndarray, "jobs models"]
) -> Float32[np.ndarray, " jobs"]:
    """Return what the best model that may follow is worth without the probe, where it may be."""
    model, best, _ = others
    worth, answered = best, expected.known.answered
    if answered is not None:
        failed = np.maximum(1 - answered, 0).astype(np.float32)
        worth = best - _of_each(expected.quality, model) * failed.take(model)
    may = allowed.reshape(-1).take(np.arange(len(model)) * allowed.shape[1] + model)
    return np.where(may, worth, np.float32(-np.inf))


def _of_each(
    table: Float32[np.ndarray, "models jobs"], model: Int[np.ndarray, " jobs"]
) -> Float32[np.ndarray, " jobs"]:
    """Return each job's entry of one model."""
    return np.asarray(table.reshape(-1).take(model * table.shape[1] + np.arange(len(model))))


def _least_squares(
    features: Float32[np.ndarray, "features jobs"], wanted: Float[np.ndarray, " jobs"]
) -> Float32[np.ndarray, " features"]:
    """Return the weights of features that come nearest; BLAS would start threads that wait."""
    exact = features.astype(np.float64)
    square = np.einsum("fj,gj->fg", exact, exact) + _RIDGE * np.eye(_FEATURES)
    return np.linalg.solve(square, np.einsum("fj,j->f", exact, wanted)).astype(np.float32)
