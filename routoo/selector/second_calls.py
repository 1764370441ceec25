"""What a probe's policy does once the answer is judged, and what that is worth.

Everything is computed for many jobs at once, with the jobs last in memory.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped

from routoo.selector.comparisons import (
    NEVER,
    Columns,
    ComparedCalls,
    Comparison,
    Comparisons,
    Judgements,
)

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
class SecondCalls:
    """What a policy does for some jobs once a probe's answer is judged."""

    models: Int[np.ndarray, "asked #jobs"]
    """Columns of the probe, first, and of the models that may be asked after it."""
    position: Int[np.ndarray, "outcomes jobs"]
    """Place in `models` of what is asked next; 0 where the probe's answer is accepted."""
    chance: Float32[np.ndarray, "outcomes jobs"]
    quality: Float32[np.ndarray, " jobs"]
    """Expected quality of the answer that is kept."""
    cost_usd: Float[np.ndarray, " jobs"]
    """Expected cost of the calls after the probe's, in USD."""
    compared: tuple[ComparedCalls, ...] = ()
    """Calls whose answers are compared with the probe's; there the position is 0."""

    @property
    def target(self) -> Int[np.ndarray, "outcomes jobs"]:
        """Column of the model that is asked next; the probe's own where its answer is accepted."""
        columns = np.broadcast_to(self.models, (len(self.models), self.position.shape[1]))
        return np.take_along_axis(columns, self.position, axis=0)

    @property
    def accepted(self) -> Float32[np.ndarray, " jobs"]:
        """Probability that the probe's answer is accepted."""
        at_once = (self.chance * (self.position == 0)).sum(axis=0)
        return np.asarray(sum((-one.asked for one in self.compared), start=at_once))

    def asked(self, model: int) -> Float32[np.ndarray, " jobs"]:
        """Return the probability that a model is asked next, not to compare its answer.

        Of the probe itself, that its answer is accepted at once.
        """
        if model == self.models[0, 0]:
            return self.accepted
        return np.asarray((self.chance * (self.target == model)).sum(axis=0))

    def expected(self, per_call: Float[np.ndarray, "jobs models"]) -> Float[np.ndarray, " jobs"]:
        """Return what calls after the probe's are expected to take of something."""
        taken = _expected(self.chance, self.position, _of_models(per_call, self.models))
        for one in self.compared:
            taken = taken + one.expected(_of_models(per_call, one.of.order))
        return taken


def _of_models(
    table: Shaped[np.ndarray, "jobs models"], models: Int[np.ndarray, "asked #jobs"]
) -> Shaped[np.ndarray, "asked jobs"]:
    """Return the rows of some models, jobs last."""
    if models.shape[1] == 1:
        return np.ascontiguousarray(table.T[models[:, 0]])
    jobs, columns = table.shape
    return np.asarray(table.ravel().take(models + np.arange(jobs) * columns))


def _expected(
    chance: Float32[np.ndarray, "outcomes jobs"],
    position: Int[np.ndarray, "outcomes jobs"],
    per_call: Float[np.ndarray, "asked jobs"],
) -> Float[np.ndarray, " jobs"]:
    """Return the mean of what the calls take, of models in order; the first is not called."""
    jobs = per_call.shape[1]
    taken = np.array(per_call)
    taken[0] = 0.0
    each = taken.ravel().take(position * jobs + np.arange(jobs))
    mean: Float[np.ndarray, " jobs"] = np.einsum("kj,kj->j", chance, each)
    return mean


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
    order = _others_after((probe,), cost_usd.shape[1])
    quality = _after(judged.quality[:, :, order].T, answered, order[:, None])
    calls = _of_models(cost_usd, order[:, None]), _of_models(follow, order[:, None])
    chance = np.ascontiguousarray(judged.chance.T)
    return ProbeOutcomes(order[:, None], chance, quality, *calls).at_price(price)


def _others_after(first: tuple[int, ...], models: int) -> Int[np.ndarray, " models"]:
    return np.array([*first, *(model for model in range(models) if model not in first)])


def _after(
    quality: Float32[np.ndarray, "models outcomes jobs"],
    answered: Float[np.ndarray, " pool"] | None,
    order: Int[np.ndarray, "models #jobs"],
) -> Float32[np.ndarray, "models outcomes jobs"]:
    """Return the quality of what is kept once each model was asked, the probe being the first."""
    if answered is None or np.all(answered >= 1):
        return quality
    share = np.minimum(answered, 1).astype(np.float32).take(order)[:, None, :]
    share[0] = 1  # the probe's answer is there
    return np.asarray(quality[0] + share * (quality - quality[0]))


@dataclass(frozen=True, slots=True)
class ProbeOutcomes:
    """What judging a probe's answers may show of some jobs, the probe before the other models."""

    order: Int[np.ndarray, "models #jobs"]
    """Columns of the models."""
    chance: Float32[np.ndarray, "outcomes jobs"]
    quality: Float32[np.ndarray, "models outcomes jobs"]
    cost_usd: Float[np.ndarray, "models jobs"]
    follow: Bool[np.ndarray, "models jobs"]
    """Models that may be asked after the probe."""
    shared: Float32[np.ndarray, " jobs"] | None = None
    """Number of jobs whose quality a call buys together; None = 1 each."""
    comparisons: tuple[Comparison, ...] = ()
    """Models whose answers may be compared with the probe's before another one is asked."""

    def rows(self, some: Int[np.ndarray, " some"]) -> "ProbeOutcomes":
        """Return what may be shown of fewer jobs."""
        return replace(
            self,
            order=self.order if self.order.shape[1] == 1 else self.order.take(some, axis=1),
            chance=self.chance.take(some, axis=1),
            quality=self.quality.take(some, axis=2),
            cost_usd=self.cost_usd.take(some, axis=1),
            follow=self.follow.take(some, axis=1),
            shared=None if self.shared is None else self.shared[some],
            comparisons=tuple(one.rows(some) for one in self.comparisons),
        )

    def at_price(self, price: float | Float[np.ndarray, " jobs"]) -> SecondCalls:
        """Return what is asked next where a dollar must buy so much quality."""
        position, best = _largest(self._values(price))
        compared, best = self._compared(best, price)
        for one in compared:
            position[one.share > 0] = 0
        cost = _expected(self.chance, position, self.cost_usd)
        for one in compared:
            cost = cost + one.expected(one.of.cost_usd)
        # The value is quality less the price of further calls, so that gives the quality.
        quality = np.einsum("kj,kj->j", self.chance, best) + self._each(price) * cost
        return SecondCalls(
            self.order, position, self.chance, quality.astype(np.float32), cost, compared
        )

    def _compared(
        self, best: Float32[np.ndarray, "outcomes jobs"], price: float | Float[np.ndarray, " jobs"]
    ) -> tuple[tuple[ComparedCalls, ...], Float32[np.ndarray, "outcomes jobs"]]:
        """Return the second answers that are worth comparing, and the best value with them."""
        valued = [one.at_price(self.quality[0], self._each(price)) for one in self.comparisons]
        taken = np.full(best.shape, -1)
        for number, one in enumerate(valued):
            taken[one.value > best] = number
            best = np.maximum(best, one.value)
        shares = [np.where(taken == number, self.chance, 0) for number in range(len(valued))]
        calls = [
            one.where(share.astype(np.float32))
            for one, share in zip(valued, shares, strict=True)
            if share.any()
        ]
        return tuple(calls), best

    def worth(self, price: float, served: float) -> Float[np.ndarray, " jobs"]:
        """Return the quality that jobs get of the probe's policy, less the price of both calls.

        Args:
            price: Quality that a dollar must buy.
            served: Share of jobs that the probe answers.
        """
        _, best = self._compared(self._values(price).max(axis=0), price)
        kept = np.einsum("kj,kj->j", self.chance, best) * served
        shared = 1.0 if self.shared is None else self.shared
        return np.asarray(kept * shared - price * self.cost_usd[0])

    def _each(
        self, price: float | Float[np.ndarray, " jobs"]
    ) -> float | Float[np.ndarray, " jobs"]:
        return price if self.shared is None else price / self.shared

    def _values(
        self, price: float | Float[np.ndarray, " jobs"]
    ) -> Float32[np.ndarray, "models outcomes jobs"]:
        """Return quality less the price of the second call; the probe's answer costs none."""
        charge = np.where(self.follow, self.cost_usd * self._each(price), NEVER)
        charge[0] = 0.0
        return np.asarray(self.quality - charge.astype(np.float32)[:, None, :])


def _largest(
    value: Float32[np.ndarray, "models outcomes jobs"],
) -> tuple[Int[np.ndarray, "outcomes jobs"], Float32[np.ndarray, "outcomes jobs"]]:
    """Return where the largest value stands, and the value; changes the array.

    A model's place is written into the last bits of its values, which is six times as fast as
    comparing and copying places: of values that differ by less than a millionth (a few more with
    many models) any may count as the largest. Of equal ones the first does.
    """
    places = (1 << (len(value) - 1).bit_length()) - 1
    bits = value.view(np.int32)
    bits &= ~places
    bits |= places - np.arange(len(value), dtype=np.int32)[:, None, None]
    best = value.max(axis=0)
    return (places - (best.view(np.int32) & places)).astype(np.intp), best


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
        return JobProbes(self, jobs, self.judge(self.quality[jobs]))

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
    expect: ExpectJudgements

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
            wanted: Columns = _others_after((probe,), known.quality.shape[1])
            order = wanted[:, None]
        else:
            wanted = order = self._rivals((probe,), follow, rivals_at)
        judged = self.expect(probe, wanted)
        return ProbeOutcomes(
            order,
            np.ascontiguousarray(judged.chance.T, np.float32),
            _after(judged.quality.T, known.answered, order),
            _of_models(known.cost_usd[jobs], order),
            _of_models(follow, order),
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
        known, models, jobs = self.known, self.known.quality.shape[1], len(self.jobs)
        if rivals_at is None:
            wanted: Columns = _others_after(both, models)
            order = wanted[:, None]
        else:
            wanted = order = self._rivals(both, follow, rivals_at)
        shown = np.asarray(self.expect(both[0], wanted).quality.T, np.float32)
        outcomes = shown.shape[1]
        each = wanted if wanted.ndim == 1 else np.tile(wanted, outcomes)
        after = comparisons.expect(*both, each, shown.reshape(len(shown), -1))
        seconds = after.chance.shape[1]
        share = np.ones(models) if known.answered is None else np.minimum(known.answered, 1)
        return Comparison(
            order,
            allowed,
            np.ascontiguousarray(after.chance.T, np.float32).reshape(seconds, outcomes, jobs),
            np.asarray(after.quality.T, np.float32).reshape(len(shown), seconds, outcomes, jobs),
            _of_models(known.cost_usd[self.jobs], order),
            _of_models(follow, order),
            share.astype(np.float32).take(order),
        )

    @property
    def shared(self) -> Float32[np.ndarray, " some"] | None:
        """Number of jobs whose quality a call buys together; None = 1 each."""
        weight = self.known.weight
        return None if weight is None else np.maximum(weight[self.jobs], 1)

    def _rivals(
        self, first: tuple[int, ...], follow: Bool[np.ndarray, "some models"], price: float
    ) -> Int[np.ndarray, "asked some"]:
        """Return the models asked first, and the few others that look best at a price."""
        known, jobs = self.known, self.jobs
        each = price if self.shared is None else price / self.shared
        value = known.quality[jobs].T - (known.cost_usd[jobs].T * each)
        value = np.where(follow.T, value, -NEVER).astype(np.float32, order="C")
        value[list(first)] = -2 * NEVER
        rivals = min(MOST_RIVALS, len(value) - len(first))
        order = np.empty((len(first) + rivals, len(jobs)), np.intp)
        order[: len(first)] = np.array(first)[:, None]
        for place in range(len(first), len(order)):
            order[place] = _largest(value[:, None, :])[0][0]
            value[order[place], np.arange(len(jobs))] = -2 * NEVER
        return order
