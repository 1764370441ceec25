"""Asking a cheap model first and judging its answer, as further options of the same problem.

A probe is a first call whose answer is judged; then it is accepted, or another model is asked. Its
policy at a price x of a dollar asks the model m with the largest q'_m - x c_m where that is more
than q'_probe, with q' the quality that the judgement shows. So at its own price the policy is worth

    E[max(q'_probe, max_m(q'_m - x c_m))] - x c_probe,

and no other policy of this probe is worth more there. The solver sees a few policies of each probe,
made for prices near the batch's shadow price, as columns beside the models: one shadow price holds
for all of them, and it is the threshold when the answers come. A sample of the jobs says which
prices and which probes matter.

Source: Dekoninck et al., A unified approach to routing and cascading for LLMs, arXiv 2410.10347.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int16

from routoo.selector.option_table import OptionTable
from routoo.selector.problem import Problem
from routoo.selector.solvers import solve
from routoo.selector.solvers.lagrangian.hull import climb
from routoo.selector.solvers.lagrangian.price_path import sweep

BLOCK_JOBS = 2048
"""Jobs whose judgements are in memory at once."""
SAMPLE_JOBS = 4096
SAMPLE_SEED = 20_261_126
"""The same problem always has the same options."""
GRID_PRICES = 12
"""Prices over the whole range, between which a sample looks for the shadow price."""
NEAR = (1.5, 1.0, 1 / 1.5)
"""The policies of a probe: for the shadow price that the sample has, and for prices near it."""
MOST_PROBES = 3
LEAST_SHARE = 0.005
"""A probe that fewer jobs of the sample take is not worth a column."""
LEAST_ESCALATION = 1e-3
"""A policy that escalates less often is the direct call, but for rounding."""


@runtime_checkable
class Judgements(Protocol):
    """What judging an answer may show, before there is one: a few outcomes for each job."""

    @property
    def chance(self) -> Float32[np.ndarray, "jobs outcomes"]:
        """Probability of each outcome."""
        ...

    @property
    def quality(self) -> Float32[np.ndarray, "jobs outcomes models"]:
        """Quality of every model that the outcome shows; its mean is the quality before."""
        ...


Judge = Callable[[int, Float32[np.ndarray, "jobs models"]], Judgements]
"""Takes the column of a probe and the expected qualities of some jobs."""
Follow = Callable[[Int[np.ndarray, " jobs"], int], Bool[np.ndarray, "jobs models"]]
"""Takes numbers of jobs and a probe's column, returns which models may be asked after it."""


@dataclass(frozen=True, slots=True)
class SecondCalls:
    """What a policy does for some jobs once a probe's answer is judged."""

    target: Int16[np.ndarray, "outcomes jobs"]
    """Column of the model that is asked next; the probe's own where its answer is accepted."""
    chance: Float32[np.ndarray, "outcomes jobs"]
    quality: Float32[np.ndarray, " jobs"]
    """Expected quality of the answer that is kept."""
    cost_usd: Float[np.ndarray, " jobs"]
    """Expected cost of the second call, in USD."""

    def asked(self, model: int) -> Float32[np.ndarray, " jobs"]:
        """Return the probability that a model is asked next (or, of the probe, that it is kept)."""
        share: Float32[np.ndarray, " jobs"] = np.where(
            self.target == model, self.chance, np.float32(0)
        ).sum(axis=0)
        return share


def second_calls(
    judged: Judgements,
    probe: int,
    cost_usd: Float[np.ndarray, "jobs models"],
    follow: Bool[np.ndarray, "jobs models"],
    price: float | Float[np.ndarray, " jobs"],
    answered: Float[np.ndarray, " models"] | None = None,
) -> SecondCalls:
    """Return what the policy of a probe at a price does.

    Args:
        judged: The outcomes of judging; with one outcome, the judgement itself.
        probe: Column of the probe.
        cost_usd: Expected cost of a call, in USD.
        follow: Models that may be asked after the probe.
        price: Quality that a dollar must buy, one for all jobs or one for each.
        answered: Share of jobs that each model answers; the probe's answer is kept in the others.
    """
    return _at_price(_Shown.of(judged), probe, cost_usd.T, follow.T, price, answered)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Judgements with the jobs last: all that is done with them is done for many jobs at once."""

    chance: Float32[np.ndarray, "outcomes jobs"]
    quality: Float32[np.ndarray, "models outcomes jobs"]

    @classmethod
    def of(cls, judged: Judgements) -> "_Shown":
        return cls(np.ascontiguousarray(judged.chance.T), np.ascontiguousarray(judged.quality.T))


def _at_price(
    shown: _Shown,
    probe: int,
    cost_usd: Float[np.ndarray, "models jobs"],
    follow: Bool[np.ndarray, "models jobs"],
    price: float | Float[np.ndarray, " jobs"],
    answered: Float[np.ndarray, " models"] | None,
) -> SecondCalls:
    kept = shown.quality[probe]
    best = kept.copy()
    target = np.full(best.shape, probe, np.int16)
    # What may not be asked costs too much at any price.
    charge = np.where(follow, cost_usd * price, np.inf).astype(np.float32)
    value, better = np.empty_like(best), np.empty(best.shape, np.bool_)
    for model in np.flatnonzero(follow.any(axis=1)).tolist():
        if model == probe:
            continue
        after = shown.quality[model]
        if answered is not None and answered[model] < 1:
            after = kept + np.float32(answered[model]) * (after - kept)
        np.subtract(after, charge[model], out=value)
        np.greater(value, best, out=better)
        np.copyto(target, np.int16(model), where=better)
        np.maximum(best, value, out=best)
    usd = np.where(np.arange(len(cost_usd))[:, None] == probe, 0.0, cost_usd)
    cost = (shown.chance * usd[target, np.arange(best.shape[1])]).sum(axis=0)
    # The value is quality less the second call's price, so that gives the quality.
    quality = (shown.chance * best).sum(axis=0) + price * cost
    return SecondCalls(target, shown.chance, quality.astype(np.float32), cost)


@dataclass(frozen=True, slots=True)
class ProbeModel:
    """What is known of a batch's probes, models in pool order."""

    judge: Judge
    probes: tuple[int, ...]
    """Columns of the models whose answers can be judged."""
    quality: Float32[np.ndarray, "jobs models"]
    """Expected quality of one answer, for one job that it serves."""
    cost_usd: Float[np.ndarray, "jobs models"]
    """Expected cost of a call, in USD."""
    follow: Follow
    answered: Float32[np.ndarray, " models"] | None = None
    """Share of jobs that each model answers; None = all."""
    weight: Float32[np.ndarray, " jobs"] | None = None
    """Number of jobs that an answer serves; None = 1 each."""

    def second_calls(
        self, jobs: Int[np.ndarray, " some"], probe: int, *prices: float
    ) -> list[SecondCalls]:
        """Return what some jobs' policies of a probe do, one for each price."""
        shown = _Shown.of(self.judge(probe, self.quality[jobs]))
        cost, follow = self.cost_usd[jobs].T, self.follow(jobs, probe).T
        # A call that serves several jobs buys their quality together.
        shared = 1.0 if self.weight is None else np.maximum(self.weight[jobs], 1.0)
        return [
            _at_price(shown, probe, cost, follow, price / shared, self.answered) for price in prices
        ]

    def some(self, jobs: Int[np.ndarray, " some"]) -> "ProbeModel":
        """Return what is known of some jobs."""
        return replace(
            self,
            quality=self.quality[jobs],
            cost_usd=self.cost_usd[jobs],
            weight=None if self.weight is None else self.weight[jobs],
            follow=lambda some, probe: self.follow(jobs[some], probe),
        )


@dataclass(frozen=True, slots=True)
class Policies:
    """The columns of a problem beyond the models themselves."""

    models: int
    """Number of columns before the first policy."""
    probe: tuple[int, ...] = ()
    """Column of each policy's probe."""
    price: tuple[float, ...] = ()
    """Quality per USD that each policy is made for."""

    def first(self, choice: Int[np.ndarray, " jobs"]) -> Int[np.ndarray, " jobs"]:
        """Return the column of the model that each job asks first; -1 where it has none."""
        columns = np.array([*range(self.models), *self.probe, -1])
        return np.asarray(columns[choice], choice.dtype)


def with_policies(problem: Problem, known: ProbeModel) -> tuple[Problem, Policies]:
    """Return a problem with the policies of the probes that are worth it as further options.

    Args:
        problem: The models as options; its capacities name models.
        known: The probes.

    Returns:
        The problem itself where no probe is worth it.
    """
    models = problem.options
    probes, price = _worthwhile(problem, known)
    if not probes:
        return problem, Policies(models)
    pairs = [(probe, price * near) for probe in probes for near in NEAR]
    policies = Policies(models, *(tuple(part) for part in zip(*pairs, strict=True)))
    return extended(problem, known, policies), policies


def spread_policies(problem: Problem, probes: Sequence[int]) -> Policies:
    """Return policies of some probes for prices over the whole range, as a frontier needs them."""
    pairs = [(probe, price) for probe in probes for price in _price_range(problem)]
    if not pairs:
        return Policies(problem.options)
    return Policies(problem.options, *(tuple(part) for part in zip(*pairs, strict=True)))


def extended(problem: Problem, known: ProbeModel, policies: Policies) -> Problem:
    """Return a problem with given policies as further columns."""
    shape = (problem.jobs, problem.options + len(policies.probe))
    quality = np.zeros(shape, np.float32)
    cost = np.zeros(shape, problem.cost_usd.dtype)
    allowed = np.zeros(shape, np.bool_)
    old = slice(0, problem.options)
    quality[:, old], cost[:, old] = problem.quality, problem.cost_usd
    allowed[:, old] = True if problem.allowed is None else problem.allowed
    uses = [np.zeros(shape, np.float32) for _ in problem.capacities]
    for use, item in zip(uses, problem.capacities, strict=True):
        columns = list(item.options)
        use[:, columns] = 1.0 if item.use is None else item.use[:, columns]
    for start in range(0, problem.jobs, BLOCK_JOBS):
        rows = slice(start, min(start + BLOCK_JOBS, problem.jobs))
        table = _Columns(quality[rows], cost[rows], allowed[rows], [use[rows] for use in uses])
        _fill(table, known, policies, np.arange(rows.start, rows.stop))
    capacities = tuple(
        replace(item, options=tuple(range(shape[1])), use=use)
        for item, use in zip(problem.capacities, uses, strict=True)
    )
    return replace(problem, quality=quality, cost_usd=cost, allowed=allowed, capacities=capacities)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Some rows of an extended problem, filled in place."""

    quality: Float32[np.ndarray, "rows options"]
    cost: Float[np.ndarray, "rows options"]
    allowed: Bool[np.ndarray, "rows options"]
    uses: list[Float32[np.ndarray, "rows options"]]


def _fill(
    table: _Columns,
    known: ProbeModel,
    policies: Policies,
    jobs: Int[np.ndarray, " rows"],
) -> None:
    weight: float | Float32[np.ndarray, " rows"]
    weight = 1.0 if known.weight is None else known.weight[jobs]
    for probe in dict.fromkeys(policies.probe):
        columns = [at for at, one in enumerate(policies.probe) if one == probe]
        prices = [policies.price[at] for at in columns]
        found = known.second_calls(jobs, probe, *prices)
        served = 1.0 if known.answered is None else float(known.answered[probe])
        for at, second in zip(columns, found, strict=True):
            column = policies.models + at
            escalated = 1.0 - second.asked(probe)
            table.quality[:, column] = second.quality * weight * served
            table.cost[:, column] = table.cost[:, probe] + second.cost_usd
            table.allowed[:, column] = table.allowed[:, probe] & (escalated > LEAST_ESCALATION)
            for use in table.uses:
                use[:, column] = use[:, probe]
                for model in range(policies.models):
                    if model != probe:
                        use[:, column] += second.asked(model) * use[:, model]


def _worthwhile(problem: Problem, known: ProbeModel) -> tuple[tuple[int, ...], float]:
    """Return the probes that a sample of the jobs takes, and the shadow price that it has then."""
    sample, some = _sampled(problem, known)
    prices = _price_range(sample)
    if not known.probes or not prices:
        return (), 0.0
    probes, price = known.probes, 0.0
    for near in (prices, None, None):
        tried = near or [price * factor for factor in NEAR]
        pairs = [(probe, one) for probe in probes for one in tried]
        policies = Policies(sample.options, *(tuple(part) for part in zip(*pairs, strict=True)))
        solution = solve(extended(sample, some, policies), allow_partial=True)
        price = max(solution.shadow_price_per_usd, sample.floor_price_per_usd) or prices[-1]
        probes = _taken(policies, solution.choice)
        if not probes:
            return (), 0.0
    return probes, price


def _taken(policies: Policies, choice: Int[np.ndarray, " jobs"]) -> tuple[int, ...]:
    """Return the probes that enough jobs take, those that the most take, in pool order."""
    taken = policies.first(choice[choice >= policies.models])
    counts = np.bincount(taken, minlength=policies.models)
    least = max(1.0, LEAST_SHARE * np.count_nonzero(choice >= 0))
    best = np.argsort(-counts, kind="stable")[:MOST_PROBES]
    return tuple(sorted(int(column) for column in best if counts[column] >= least))


def _sampled(problem: Problem, known: ProbeModel) -> tuple[Problem, ProbeModel]:
    """Return a sample of the jobs; all of them where they are few."""
    if problem.jobs <= SAMPLE_JOBS:
        return replace(problem, capacities=()), known
    draw = np.random.default_rng(SAMPLE_SEED).choice(problem.jobs, SAMPLE_JOBS, replace=False)
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
