"""What is known of a batch's probes, and what judging their answers may show of some jobs.

Everything is computed for many jobs at once, with the jobs last in memory.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from routoo.selector.comparisons import Columns, Comparison, Comparisons, Judgements
from routoo.selector.second_calls import (
    ProbeOutcomes,
    after_failures,
    of_models,
    others_after,
)
from routoo.selector.values import NEVER, charged, place_of, with_places

MOST_RIVALS = 2
"""With two rivals of a probe a policy lost a thousandth of its gain in our benchmark."""

ExpectJudgements = Callable[[int, Columns], Judgements]
"""Takes the column of a probe, and the columns of the models whose quality is wanted, the probe
first; they are the judgements' in this order."""
Judge = Callable[[Float32[np.ndarray, "jobs models"]], ExpectJudgements]
"""Takes the expected qualities of some jobs."""
Follow = Callable[[Int[np.ndarray, " jobs"], int], Bool[np.ndarray, "jobs models"]]
"""Takes numbers of jobs and a probe's column, returns which models may be asked after it."""


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
    found: list[tuple[Bool[np.ndarray, "some models"], float, Int[np.ndarray, "best some"]]] = (
        field(default_factory=list)
    )
    """Of models that may follow and a price, which ones look best."""

    def outcomes(self, probe: int, rivals_at: float | None = None) -> ProbeOutcomes:
        """Return what judging a probe's answers may show.

        Args:
            probe: Column of the probe.
            rivals_at: Consider only the few models that look best beforehand at this price of a
                dollar, which is much faster and loses next to nothing; None = all models.
        """
        known, jobs = self.known, self.jobs
        follow = known.follow(jobs, probe)
        if rivals_at is None:
            wanted: Columns = others_after((probe,), known.quality.shape[1])
            order = wanted[:, None]
        else:
            wanted = order = self._rivals((probe,), follow, rivals_at)
        judged = self.expect(probe, wanted)
        return ProbeOutcomes(
            order,
            np.ascontiguousarray(judged.chance.T, np.float32),
            after_failures(judged.quality.T, known.answered, order),
            self._costs(order),
            of_models(follow, order),
            self.shared,
            tuple(self._comparisons(probe, follow, rivals_at)),
        )

    def _comparisons(
        self, probe: int, follow: Bool[np.ndarray, "some models"], rivals_at: float | None
    ) -> Iterator[Comparison]:
        """Yield the second models whose answers may be compared with the probe's."""
        known = self.known.comparisons
        if known is None:
            return
        for second in known.seconds.get(probe, ()):
            allowed = known.may(self.jobs, probe, second) & follow[:, second]
            if allowed.any():
                yield self._comparison(known, (probe, second), follow, rivals_at, allowed)

    def _comparison(
        self,
        comparisons: Comparisons,
        both: tuple[int, int],
        follow: Bool[np.ndarray, "some models"],
        rivals_at: float | None,
        allowed: Bool[np.ndarray, " some"],
    ) -> Comparison:
        known = self.known
        if rivals_at is None:
            wanted: Columns = others_after(both, known.quality.shape[1])
            order = wanted[:, None]
        else:
            wanted = order = self._rivals(both, follow, rivals_at)
        shown = np.asarray(self.expect(both[0], wanted).quality.T, np.float32)
        after = comparisons.expect(*both, wanted, shown)
        share = None
        if known.answered is not None and (known.answered < 1).any():
            share = np.minimum(known.answered, 1).astype(np.float32).take(order)
        return Comparison(
            order,
            allowed,
            np.ascontiguousarray(after.chance.T, np.float32),
            np.asarray(after.quality.T, np.float32),
            self._costs(order),
            of_models(follow, order),
            share,
        )

    def _costs(self, order: Int[np.ndarray, "asked #some"]) -> Float[np.ndarray, "asked some"]:
        """Return the expected cost of a call of each model, in USD."""
        if order.shape[1] == 1:
            return np.asarray(self.cost_usd[order[:, 0]])
        jobs = self.cost_usd.shape[1]
        return np.asarray(self.cost_usd.ravel().take(order * jobs + np.arange(jobs)))

    @property
    def shared(self) -> Float32[np.ndarray, " some"] | None:
        """Number of jobs whose quality a call buys together; None = 1 each."""
        weight = self.known.weight
        return None if weight is None else np.maximum(weight[self.jobs], 1)

    def _rivals(
        self, first: tuple[int, ...], follow: Bool[np.ndarray, "some models"], price: float
    ) -> Int[np.ndarray, "asked some"]:
        """Return the models asked first, and the few others that look best at a price."""
        rivals = min(MOST_RIVALS, self.known.quality.shape[1] - len(first))
        order = np.empty((len(first) + rivals, len(self.jobs)), np.intp)
        for place, column in enumerate(first):
            order[place] = column
        order[len(first) :] = _without(self._best(follow, price), first)[:rivals]
        return order

    def _best(
        self, follow: Bool[np.ndarray, "some models"], price: float
    ) -> Int[np.ndarray, "best some"]:
        """Return the models that look best at a price, those that may not follow last.

        Several probes often may be followed by the same models, so what was found is kept.
        """
        for of_follow, at_price, best in self.found:
            if at_price == price and np.array_equal(of_follow, follow):
                return best
        each = price if self.shared is None else price / self.shared
        value = self.quality - charged(self.cost_usd, follow.T, each)
        compares = self.known.comparisons is not None and any(self.known.comparisons.seconds)
        best = _several_largest(value, MOST_RIVALS + (2 if compares else 1))
        self.found.append((follow, price, best))
        return best


def _several_largest(
    value: Float32[np.ndarray, "places jobs"], most: int
) -> Int[np.ndarray, "largest jobs"]:
    """Return the places of the largest values in order; changes the array."""
    places, jobs = value.shape
    with_places(value)
    found, each = np.empty((min(most, places), jobs), np.intp), np.arange(jobs)
    for number in range(len(found)):
        found[number] = place_of(value.max(axis=0), places)
        value.reshape(-1)[found[number] * jobs + each] = -2 * NEVER
    return found


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
