"""What is known of a batch's probes, and what judging their answers may show of some jobs.

Everything is computed for many jobs at once, with the jobs last in memory.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from routoo.selector.comparisons import (
    NEVER,
    Columns,
    Comparison,
    Comparisons,
    Judgements,
    charged,
    place_of,
    with_places,
)
from routoo.selector.second_calls import (
    ProbeOutcomes,
    after_failures,
    others_after,
)

MOST_RIVALS = 2
"""With two rivals of a probe a policy lost a thousandth of its gain in our benchmark."""

ExpectJudgements = Callable[[int, Columns, Int[np.ndarray, " rows"] | None], Judgements]
"""Takes the column of a probe, the columns of the models whose quality is wanted, the probe first,
and the rows of the jobs that are looked at, None = all; models are the judgements' in this order.
"""
Judge = Callable[[Float32[np.ndarray, "jobs models"]], ExpectJudgements]
"""Takes the expected qualities of some jobs."""
Follow = Callable[[Int[np.ndarray, " jobs"], int], Bool[np.ndarray, "jobs models"]]
"""Takes numbers of jobs and a probe's column, returns which models may be asked after it."""
BestOthers = tuple[
    Int[np.ndarray, " some"], Float32[np.ndarray, " some"], Float32[np.ndarray, " some"]
]
"""Of each job, the model that looks best beside a probe, its worth and the next one's worth."""


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
    comparisons: Comparisons | None = None
    """Models whose answers may be compared with the probes'; None = none."""

    def served(self, model: int) -> float:
        """Return the share of jobs that a model answers."""
        return 1.0 if self.answered is None else float(self.answered[model])

    def of_jobs(self, jobs: Int[np.ndarray, " some"]) -> "JobProbes":
        """Return the expected judgements of some jobs."""
        some: slice | Int[np.ndarray, " some"] = jobs
        if len(jobs) and (np.diff(jobs) == 1).all():
            some = slice(int(jobs[0]), int(jobs[-1]) + 1)
        quality = np.ascontiguousarray(self.quality[some].T)
        cost_usd = np.ascontiguousarray(self.cost_usd[some].T)
        return JobProbes(self, jobs, quality, cost_usd, self.judge(quality.T))

    def some(self, jobs: Int[np.ndarray, " some"]) -> "ProbeModel":
        """Return what is known of some jobs."""
        return replace(
            self,
            quality=self.quality[jobs],
            cost_usd=self.cost_usd[jobs],
            weight=None if self.weight is None else self.weight[jobs],
            follow=lambda some, probe: self.follow(jobs[some], probe),
            comparisons=self.comparisons and self.comparisons.some(jobs),
        )

    def with_seconds(self, seconds: Mapping[int, tuple[int, ...]]) -> "ProbeModel":
        """Return it with other second models, by the probe's column."""
        known = self.comparisons
        return replace(self, comparisons=known and replace(known, seconds=seconds))


@dataclass(frozen=True, slots=True)
class JobProbes:
    """Some jobs of a `ProbeModel`, with what judging may show of them."""

    known: ProbeModel
    jobs: Int[np.ndarray, " some"]
    quality: Float32[np.ndarray, "models some"]
    cost_usd: Float[np.ndarray, "models some"]
    expect: ExpectJudgements
    found: dict[tuple[int, float], "_BestModels"] = field(default_factory=dict)
    """Which models look best, by the probe that they may follow and the price."""

    def outcomes(
        self,
        probe: int,
        rivals_at: float | None = None,
        rows: Int[np.ndarray, " rows"] | None = None,
    ) -> ProbeOutcomes:
        """Return what judging a probe's answers may show.

        Args:
            probe: Column of the probe.
            rivals_at: Consider only the few models that look best beforehand at this price of a
                dollar, which is much faster and loses next to nothing; None = all models.
            rows: Which of these jobs to look at; None = all.
        """
        shared, best = self.shared, None
        if rivals_at is None:
            follow = self.known.follow(self.jobs, probe)
        else:
            found = self._best(probe, rivals_at)
            follow = found.follow
            best = found.column if rows is None else found.column.take(rows, axis=1)
        if rows is not None and shared is not None:
            shared = shared[rows]
        some = _SomeRows(self, probe, follow, best, rows)
        return some.outcomes(shared, some.comparisons())

    def best_others(self, probe: int, price: float) -> BestOthers:
        """Return the model that looks best of those that may follow, its worth and the next one's.

        Args:
            probe: Column of the probe.
            price: Quality that a dollar must buy.
        """
        best = self._best(probe, price)
        column, value = best.column, best.value
        first = column[0] == probe
        model = column[0] + (column[1] - column[0]) * first
        worth = value[0] + (value[1] - value[0]) * first
        if len(value) <= MOST_RIVALS:
            return model, worth, value[-1]
        early = first | (column[1] == probe)
        return model, worth, value[1] + (value[2] - value[1]) * early

    @property
    def shared(self) -> Float32[np.ndarray, " some"] | None:
        """Number of jobs whose quality a call buys together; None = 1 each."""
        weight = self.known.weight
        return None if weight is None else np.maximum(weight[self.jobs], 1)

    def _best(self, probe: int, price: float) -> "_BestModels":
        """Return the models that look best at a price, those that may not follow last.

        Several probes often may be followed by the same models, so what was found is kept.
        """
        if (probe, price) in self.found:
            return self.found[probe, price]
        follow = self.known.follow(self.jobs, probe)
        for (_, at_price), known in self.found.items():
            if at_price == price and np.array_equal(known.follow, follow):
                self.found[probe, price] = known
                return known
        each = price if self.shared is None else price / self.shared
        value = self.quality - charged(self.cost_usd, follow.T, each)
        seconds = self.known.comparisons and any(self.known.comparisons.seconds.values())
        best = _several_largest(value, MOST_RIVALS + (2 if seconds else 1))
        return self.found.setdefault((probe, price), _BestModels(follow, *best))


@dataclass(frozen=True, slots=True)
class _BestModels:
    """The models that look best at a price, of those that may follow a probe."""

    follow: Bool[np.ndarray, "jobs models"]
    column: Int[np.ndarray, "best jobs"]
    value: Float32[np.ndarray, "best jobs"]
    """Quality less the price of the call; far below any worth where it may not follow."""


@dataclass(frozen=True, slots=True)
class _SomeRows:
    """Some rows of a `JobProbes`, looked at for one probe."""

    of: JobProbes
    probe: int
    follow: Bool[np.ndarray, "jobs models"]
    """Models that may be asked after the probe, of all rows."""
    best: Int[np.ndarray, "best rows"] | None
    """Columns of the models that look best; None = all models are looked at."""
    rows: Int[np.ndarray, " rows"] | None
    """None = all."""

    @property
    def each(self) -> Int[np.ndarray, " rows"]:
        """The rows."""
        return np.arange(len(self.of.jobs)) if self.rows is None else self.rows

    def outcomes(
        self, shared: Float32[np.ndarray, " rows"] | None, comparisons: Iterator[Comparison]
    ) -> ProbeOutcomes:
        """Return what judging the probe's answers may show."""
        wanted, order = self._columns((self.probe,))
        judged = self.of.expect(self.probe, wanted, self.rows)
        return ProbeOutcomes(
            order,
            np.ascontiguousarray(judged.chance.T, np.float32),
            after_failures(judged.quality.T, self.of.known.answered, order),
            self._costs(order),
            self._may_follow(order),
            shared,
            tuple(comparisons),
        )

    def comparisons(self) -> Iterator[Comparison]:
        """Yield the second models whose answers may be compared with the probe's."""
        known = self.of.known.comparisons
        if known is None:
            return
        jobs = self.of.jobs if self.rows is None else self.of.jobs[self.rows]
        for second in known.seconds.get(self.probe, ()):
            allowed = known.may(jobs, self.probe, second) & self.follow[self.each, second]
            if allowed.any():
                yield self._comparison(known, second, allowed)

    def _comparison(
        self, comparisons: Comparisons, second: int, allowed: Bool[np.ndarray, " rows"]
    ) -> Comparison:
        known = self.of.known
        wanted, order = self._columns((self.probe, second))
        judged = self.of.expect(self.probe, wanted, self.rows)
        shown = np.asarray(judged.quality.T, np.float32)
        after = comparisons.expect(self.probe, second, wanted, shown)
        share = None
        if known.answered is not None and (known.answered < 1).any():
            share = np.minimum(known.answered, 1).astype(np.float32).take(order)
        return Comparison(
            order,
            allowed,
            np.ascontiguousarray(after.chance.T, np.float32),
            np.asarray(after.quality.T, np.float32),
            self._costs(order),
            self._may_follow(order),
            share,
        )

    def _columns(self, first: tuple[int, ...]) -> tuple[Columns, Int[np.ndarray, "asked #rows"]]:
        """Return the models asked first, then all others or the few that look best.

        Of models that are the same for all jobs, twice: as they are, and with an axis of jobs.
        """
        models = self.of.known.quality.shape[1]
        if self.best is None:
            columns = others_after(first, models)
            return columns, columns[:, None]
        rivals = min(MOST_RIVALS, models - len(first))
        order = np.empty((len(first) + rivals, self.best.shape[1]), np.intp)
        for place, column in enumerate(first):
            order[place] = column
        order[len(first) :] = _without(self.best, first)[:rivals]
        return order, order

    def _costs(self, order: Int[np.ndarray, "asked #rows"]) -> Float[np.ndarray, "asked rows"]:
        """Return the expected cost of a call of each model, in USD."""
        cost_usd = self.of.cost_usd
        return np.asarray(cost_usd.reshape(-1).take(order * cost_usd.shape[1] + self.each))

    def _may_follow(self, order: Int[np.ndarray, "asked #rows"]) -> Bool[np.ndarray, "asked rows"]:
        """Return which models may be asked after the probe."""
        return np.asarray(self.follow.ravel().take(order + self.each * self.follow.shape[1]))


def _several_largest(
    value: Float32[np.ndarray, "places jobs"], most: int
) -> tuple[Int[np.ndarray, "largest jobs"], Float32[np.ndarray, "largest jobs"]]:
    """Return the places of the largest values in order, and the values; changes the array."""
    places, jobs = value.shape
    with_places(value)
    shape, each = (min(most, places), jobs), np.arange(jobs)
    found, best = np.empty(shape, np.intp), np.empty(shape, np.float32)
    for number in range(len(found)):
        value.max(axis=0, out=best[number])
        found[number] = place_of(best[number], places)
        value.reshape(-1)[found[number] * jobs + each] = -2 * NEVER
    return found, best


def _without(
    ranked: Int[np.ndarray, "places jobs"], columns: tuple[int, ...]
) -> Int[np.ndarray, "fewer jobs"]:
    """Return the ranking without some columns, or as many of its last ones."""
    rest = ranked.copy()
    for column in columns:
        gone = np.zeros(rest.shape[1], np.bool_)
        for place in range(len(rest) - 1):
            gone |= rest[place] == column
            rest[place] += (rest[place + 1] - rest[place]) * gone
        rest = rest[:-1]
    return rest
