"""What a probe's policy does once the answer is judged, and what that is worth.

Everything is computed for many jobs at once, with the jobs last in memory.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped

MOST_RIVALS = 2
"""With two rivals of a probe a policy lost a thousandth of its gain in our benchmark."""
_NEVER = 1e30
"""Charge of a call that may not be made."""


@runtime_checkable
class Judgements(Protocol):
    """What judging an answer may show, before there is one: a few outcomes for each job.

    They are read with the jobs last; arrays that lie so in memory are not copied.
    """

    @property
    def chance(self) -> Float32[np.ndarray, "jobs outcomes"]:
        """Probability of each outcome."""
        ...

    @property
    def quality(self) -> Float32[np.ndarray, "jobs outcomes models"]:
        """Quality of each model that the outcome shows; its mean is the quality before."""
        ...


Columns = Int[np.ndarray, " models"] | Int[np.ndarray, "models jobs"]
"""Columns of models, the same for all jobs or of each job its own."""
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
    """Expected cost of the second call, in USD."""

    @property
    def target(self) -> Int[np.ndarray, "outcomes jobs"]:
        """Column of the model that is asked next; the probe's own where its answer is accepted."""
        columns = np.broadcast_to(self.models, (len(self.models), self.position.shape[1]))
        return np.take_along_axis(columns, self.position, axis=0)

    @property
    def accepted(self) -> Float32[np.ndarray, " jobs"]:
        """Probability that the probe's answer is accepted."""
        return np.asarray((self.chance * (self.position == 0)).sum(axis=0))

    def asked(self, model: int) -> Float32[np.ndarray, " jobs"]:
        """Return the probability that a model is asked next (or, of the probe, that it is kept)."""
        return np.asarray((self.chance * (self.target == model)).sum(axis=0))

    def expected(self, per_call: Float[np.ndarray, "jobs models"]) -> Float[np.ndarray, " jobs"]:
        """Return what second calls are expected to take of something that each call takes of."""
        return _expected(self.chance, self.position, _of_models(per_call, self.models))


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
    order = _others_after(probe, cost_usd.shape[1])
    quality = _after(judged.quality[:, :, order].T, answered, order[:, None])
    calls = _of_models(cost_usd, order[:, None]), _of_models(follow, order[:, None])
    chance = np.ascontiguousarray(judged.chance.T)
    return ProbeOutcomes(order[:, None], chance, quality, *calls).at_price(price)


def _others_after(probe: int, models: int) -> Int[np.ndarray, " models"]:
    return np.array([probe, *(model for model in range(models) if model != probe)])


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
        )

    def at_price(self, price: float | Float[np.ndarray, " jobs"]) -> SecondCalls:
        """Return what is asked next where a dollar must buy so much quality."""
        position, best = _largest(self._values(price))
        cost = _expected(self.chance, position, self.cost_usd)
        # The value is quality less the second call's price, so that gives the quality.
        quality = np.einsum("kj,kj->j", self.chance, best) + self._each(price) * cost
        return SecondCalls(self.order, position, self.chance, quality.astype(np.float32), cost)

    def worth(self, price: float, served: float) -> Float[np.ndarray, " jobs"]:
        """Return the quality that jobs get of the probe's policy, less the price of both calls.

        Args:
            price: Quality that a dollar must buy.
            served: Share of jobs that the probe answers.
        """
        best = self._values(price).max(axis=0)
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
        charge = np.where(self.follow, self.cost_usd * self._each(price), _NEVER)
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
        )


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
            wanted: Columns = _others_after(probe, known.quality.shape[1])
            order = wanted[:, None]
        else:
            wanted = order = self._rivals(probe, follow, rivals_at)
        judged = self.expect(probe, wanted)
        return ProbeOutcomes(
            order,
            np.ascontiguousarray(judged.chance.T, np.float32),
            _after(judged.quality.T, known.answered, order),
            _of_models(known.cost_usd[jobs], order),
            _of_models(follow, order),
            self.shared,
        )

    @property
    def shared(self) -> Float32[np.ndarray, " some"] | None:
        """Number of jobs whose quality a call buys together; None = 1 each."""
        weight = self.known.weight
        return None if weight is None else np.maximum(weight[self.jobs], 1)

    def _rivals(
        self, probe: int, follow: Bool[np.ndarray, "some models"], price: float
    ) -> Int[np.ndarray, "asked some"]:
        """Return the probe and the few other models that look best at a price."""
        known, jobs = self.known, self.jobs
        each = price if self.shared is None else price / self.shared
        value = known.quality[jobs].T - (known.cost_usd[jobs].T * each)
        value = np.where(follow.T, value, -_NEVER).astype(np.float32, order="C")
        value[probe] = -2 * _NEVER
        order = np.full((1 + min(MOST_RIVALS, len(value) - 1), len(jobs)), probe)
        for place in range(1, len(order)):
            order[place] = _largest(value[:, None, :])[0][0]
            value[order[place], np.arange(len(jobs))] = -2 * _NEVER
        return order
