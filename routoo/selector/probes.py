"""Asking a cheap model first and judging its answer, as further options of the same problem.

A probe is a first call whose answer is judged; then it is accepted, or another model is asked. Its
policy at a price x of a dollar asks the model m with the largest q'_m - x c_m where that is more
than q'_probe, with q' the quality that the judgement shows. So at its own price the policy is worth

    E[max(q'_probe, max_m(q'_m - x c_m))] - x c_probe,

and no other policy of this probe is worth more there. Where other models' answers may be compared
with the probe's, the policy may ask such a second model first (`routoo.selector.comparisons`). The
solver sees a few policies of each probe, made for prices near the batch's shadow price, as columns
beside the models: one shadow price holds for all of them, and it is the threshold when the answers
come. A sample of the jobs says which prices and which probes matter.

Source: Dekoninck et al., A unified approach to routing and cascading for LLMs, arXiv 2410.10347.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import median

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int16

from routoo.selector.probe_model import ProbeModel
from routoo.selector.problem import OptionTable, Problem
from routoo.selector.second_calls import ProbeOutcomes
from routoo.selector.solvers import solve
from routoo.selector.solvers.lagrangian.hull import climb
from routoo.selector.solvers.lagrangian.price_path import sweep

BLOCK_JOBS = 8192
"""Jobs whose judgements are in memory at once."""
BLOCK_COMPARED_JOBS = 2048
"""The same where second answers are compared, of which many outcomes are looked at."""
SAMPLE_JOBS = 4096
FIRST_SAMPLE_JOBS = 1024
"""Jobs that say which probes and second answers are worth it at any price, which takes long."""
SAMPLE_SEED = 20_261_126
"""The same problem always has the same options."""
GRID_PRICES = 12
"""Prices over the whole range, near which the shadow price is looked for."""
WIDE = (1.5, 1.0, 1 / 1.5)
"""The policies of a probe: for the shadow price that the sample has, and for prices near it."""
MANY_JOBS = 50_000
"""Of more jobs, a sample tells the shadow price well, and columns take long."""
NEAR = (1.08, 1 / 1.08)
"""The same for many jobs, each of which has one probe: the best between these prices."""
MOST_PROBES = 3
LEAST_SHARE = 0.005
"""A probe that fewer jobs of the sample take is not worth a column."""
LEAST_ESCALATION = 1e-3
"""A policy that escalates less often is the direct call, but for rounding."""
MOST_SECONDS = 2
"""Models whose answers are compared with one probe's."""
MOST_THREADS = 4


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


def with_policies(problem: Problem, known: ProbeModel) -> tuple[Problem, Policies]:
    """Return a problem with the policies of the probes that are worth it as further options.

    Args:
        problem: The models as options; its capacities name models.
        known: The probes.

    Returns:
        The problem itself where no probe is worth it.
    """
    models = problem.options
    probes, seconds, price = _worthwhile(problem, known)
    if not probes:
        return problem, Policies(models)
    many = problem.jobs > MANY_JOBS and not problem.capacities
    prices = [price * near for near in (NEAR if many else WIDE)]
    policies = _policies(models, probes, prices, seconds)
    if many:
        policies = replace(policies, own=np.full(problem.jobs, policies.probe[0], np.int16))
    return extended(problem, known, policies), policies


def spread_policies(problem: Problem, policies: Policies) -> Policies:
    """Return policies of the same probes for prices over the whole range, as a frontier needs."""
    prices = _price_range(problem)
    return _policies(problem.options, policies.probes, prices, policies.seconds)


def _policies(
    models: int,
    probes: Sequence[int],
    prices: Sequence[float],
    seconds: Mapping[int, tuple[int, ...]],
) -> Policies:
    """Return the policies of every probe for every price."""
    pairs = [(probe, price) for probe in probes for price in prices]
    columns = tuple(probe for probe, _ in pairs), tuple(price for _, price in pairs)
    return Policies(models, *columns, seconds=seconds)


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

    compares = known.comparisons is not None and any(policies.seconds.values())
    block = BLOCK_COMPARED_JOBS if compares else BLOCK_JOBS

    def fill(start: int) -> None:
        rows = slice(start, min(start + block, problem.jobs))
        quality[rows, old], cost[rows, old] = problem.quality[rows], problem.cost_usd[rows]
        allowed[rows, old] = True if problem.allowed is None else problem.allowed[rows]
        table = _Columns(
            quality[rows], cost[rows], allowed[rows], [use[rows] for use in uses], own[rows]
        )
        filled = _fill if policies.own is None else _fill_best
        filled(table, policies, known, np.arange(rows.start, rows.stop))

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
    expected = known.of_jobs(jobs)
    for probe in policies.probes:
        outcomes = expected.outcomes(probe)
        for at, price in enumerate(policies.price):
            if policies.probe[at] == probe:
                _write(
                    table, policies.models + at, [[_policy(table, known, outcomes, price, jobs)]]
                )


def _fill_best(
    table: _Columns, policies: Policies, known: ProbeModel, jobs: Int[np.ndarray, " rows"]
) -> None:
    """Fill in each job's best probe between the prices, and note which it is."""
    price = median(policies.prices)
    expected, best = known.of_jobs(jobs), np.full(len(jobs), -np.inf)
    found = {}
    table.own[:] = policies.probe[0]
    for probe in policies.probes:
        found[probe] = expected.outcomes(probe, price)
        worth = found[probe].worth(price, known.served(probe))
        worth[~table.allowed[:, probe]] = -np.inf
        table.own[:] += (probe - table.own) * (worth > best)
        np.maximum(best, worth, out=best)
    parts = []
    for probe, outcomes in found.items():
        rows = np.flatnonzero(table.own == probe)
        if len(rows):
            parts.append((rows, outcomes.rows(rows)))
    filled = [
        [_policy(table, known, part, one, jobs[rows], rows) for rows, part in parts]
        for one in policies.prices
    ]
    _write(table, policies.models, filled)


@dataclass(frozen=True, slots=True)
class _Policy:
    """A policy of some rows of a table."""

    rows: Int[np.ndarray, " some"] | slice
    quality: Float32[np.ndarray, " some"]
    cost_usd: Float[np.ndarray, " some"]
    """Of all calls but the probe's own."""
    escalates: Bool[np.ndarray, " some"]
    probe: int
    uses: list[Float[np.ndarray, " some"]]
    """Of each capacity, of all calls but the probe's own."""


def _policy(
    table: _Columns,
    known: ProbeModel,
    outcomes: ProbeOutcomes,
    price: float,
    jobs: Int[np.ndarray, " some"],
    rows: Int[np.ndarray, " some"] | slice = slice(None),
) -> _Policy:
    """Return a policy of some jobs, given as rows of the table and as rows of what is known."""
    second = outcomes.at_price(price)
    probe = int(second.models[0, 0])
    weight = np.float32(1) if known.weight is None else known.weight[jobs]
    models = known.quality.shape[1]
    return _Policy(
        rows,
        second.quality * weight * np.float32(known.served(probe)),
        second.cost_usd,
        second.accepted < 1 - LEAST_ESCALATION,
        probe,
        [second.expected(use[rows, :models]) for use in table.uses],
    )


def _write(table: _Columns, column: int, policies: Sequence[Sequence[_Policy]]) -> None:
    """Write columns from one on: of each the policies of different rows."""
    shape, last = (len(policies), len(table.own)), column + len(policies)
    quality, first = np.zeros(shape, np.float32), np.zeros(shape, np.intp)
    cost, escalates = np.zeros(shape, table.cost.dtype), np.zeros(shape, np.bool_)
    uses = np.zeros((len(table.uses), *shape), np.float32)
    for at, parts in enumerate(policies):
        for part in parts:
            rows = part.rows
            quality[at, rows], cost[at, rows] = part.quality, part.cost_usd
            first[at, rows], escalates[at, rows] = part.probe, part.escalates
            for use, taken in zip(uses, part.uses, strict=True):
                use[at, rows] = taken
    each = np.arange(shape[1]) * table.quality.shape[1] + first
    table.quality[:, column:last] = quality.T
    table.cost[:, column:last] = (cost + table.cost.reshape(-1).take(each)).T
    table.allowed[:, column:last] = (escalates & table.allowed.reshape(-1).take(each)).T
    for whole, use in zip(table.uses, uses, strict=True):
        whole[:, column:last] = (use + whole.reshape(-1).take(each)).T


def _worthwhile(
    problem: Problem, known: ProbeModel
) -> tuple[tuple[int, ...], dict[int, tuple[int, ...]], float]:
    """Return the probes that a sample of the jobs takes, each with its second models, and a price.

    The price is the sample's shadow price. It is first looked for over the whole range without
    second answers, since they take long, then near what was found, twice.
    """
    seconds = {} if known.comparisons is None else dict(known.comparisons.seconds)
    sample, some = _sampled(problem, known, FIRST_SAMPLE_JOBS)
    prices = _price_range(sample)
    if not known.probes or not prices:
        return (), {}, 0.0
    price, _, probes = _solved(sample, some, _policies(sample.options, known.probes, prices, {}))
    probes = known.probes if seconds else probes
    for most_jobs in (FIRST_SAMPLE_JOBS if seconds else SAMPLE_JOBS, SAMPLE_JOBS):
        if not probes:
            return (), {}, 0.0
        sample, some = _sampled(problem, known, most_jobs)
        near = [(price or prices[-1]) * factor for factor in WIDE]
        policies = _policies(sample.options, probes, near, seconds)
        price, choice, probes = _solved(sample, some, policies)
        seconds = _compared(some, policies, choice)
    return probes, seconds, price or prices[-1]


def _solved(
    problem: Problem, known: ProbeModel, policies: Policies
) -> tuple[float, Int[np.ndarray, " jobs"], tuple[int, ...]]:
    """Return the shadow price with given policies as options, the choice, and the probes in it."""
    solution = solve(extended(problem, known, policies), allow_partial=True)
    price = max(solution.shadow_price_per_usd, problem.floor_price_per_usd)
    return price, solution.choice, _taken(policies, solution.choice)


def _compared(
    known: ProbeModel, policies: Policies, choice: Int[np.ndarray, " jobs"]
) -> dict[int, tuple[int, ...]]:
    """Return the second models that enough jobs ask after each probe, those that the most ask."""
    known = known.with_seconds(policies.seconds)
    asked: dict[int, dict[int, float]] = {}
    for probe, price, jobs in policies.taken(choice):
        if len(jobs) and policies.seconds.get(probe):
            for one in known.of_jobs(jobs).outcomes(probe).at_price(price).compared:
                calls = asked.setdefault(probe, {})
                calls[one.of.column] = calls.get(one.of.column, 0.0) + float(one.asked.sum())
    least = max(1.0, LEAST_SHARE * np.count_nonzero(choice >= 0))
    most = {
        probe: sorted(calls, key=lambda column: -calls[column])[:MOST_SECONDS]
        for probe, calls in asked.items()
    }
    return {
        probe: tuple(column for column in columns if asked[probe][column] >= least)
        for probe, columns in most.items()
    }


def _taken(policies: Policies, choice: Int[np.ndarray, " jobs"]) -> tuple[int, ...]:
    """Return the probes that enough jobs take, those that the most take, in pool order."""
    taken = policies.first(choice[choice >= policies.models])
    counts = np.bincount(taken, minlength=policies.models)
    least = max(1.0, LEAST_SHARE * np.count_nonzero(choice >= 0))
    best = np.argsort(-counts, kind="stable")[:MOST_PROBES]
    return tuple(sorted(int(column) for column in best if counts[column] >= least))


def _sampled(problem: Problem, known: ProbeModel, most_jobs: int) -> tuple[Problem, ProbeModel]:
    """Return a sample of the jobs; all of them where they are few."""
    if problem.jobs <= most_jobs:
        return replace(problem, capacities=()), known
    draw = np.random.default_rng(SAMPLE_SEED).choice(problem.jobs, most_jobs, replace=False)
    draw.sort()
    return part_of(problem, draw), known.some(draw)


def part_of(problem: Problem, jobs: Int[np.ndarray, " some"]) -> Problem:
    """Return some of a problem's jobs with their share of its budget, without its capacities."""
    budget = problem.budget_usd
    return replace(
        problem,
        quality=problem.quality[jobs],
        cost_usd=problem.cost_usd[jobs],
        allowed=None if problem.allowed is None else problem.allowed[jobs],
        budget_usd=None if budget is None else float(budget) * len(jobs) / problem.jobs,
        capacities=(),
    )


def _price_range(problem: Problem) -> list[float]:
    """Return prices from the highest to the lowest at which models are traded for each other."""
    table = OptionTable.of(problem)
    start = sweep(table, np.inf, 0.0).choice
    served = np.flatnonzero(start >= 0)
    steps = climb(table.rows(served), start[served], 0.0, np.inf)
    steps_price = steps.price[np.isfinite(steps.price) & (steps.price > 0)]
    if len(steps_price) == 0:
        return []
    high, low = np.quantile(steps_price, [0.98, 0.02])
    return [float(price) for price in np.geomspace(high * 2, low / 2, GRID_PRICES)]
