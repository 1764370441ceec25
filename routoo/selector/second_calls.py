"""What a probe's policy does once the answer is judged, and what that is worth.

Everything is computed for many jobs at once, with the jobs last in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped

from routoo.selector.comparisons import (
    ComparedCalls,
    Comparison,
    Judgements,
    ValuedComparison,
    charged,
)


@dataclass(frozen=True, slots=True)
class SecondCalls:
    """What a policy does for some jobs once a probe's answer is judged."""

    models: Int[np.ndarray, "asked #jobs"]
    """Columns of the probe, first, and of the models that may be asked after it."""
    share: Float32[np.ndarray, "asked jobs"]
    """Probability that each of `models` is asked next; of the probe, that none is."""
    quality: Float32[np.ndarray, " jobs"]
    """Expected quality of the answer that is kept."""
    cost_usd: Float[np.ndarray, " jobs"]
    """Expected cost of the calls after the probe's, in USD."""
    compared: tuple[ComparedCalls, ...] = ()
    """Calls whose answers are compared with the probe's."""

    @property
    def accepted(self) -> Float32[np.ndarray, " jobs"]:
        """Probability that the probe's answer is accepted."""
        compared = sum((one.asked for one in self.compared), start=np.float32(0))
        return np.asarray(np.maximum(self.share[0] - compared, 0))

    def asked(self, model: int) -> Float32[np.ndarray, " jobs"]:
        """Return the probability that a model is asked next, not to compare its answer.

        Of the probe itself, that its answer is accepted at once.
        """
        if model == self.models[0, 0]:
            return self.accepted
        return np.asarray((self.share * (self.models == model)).sum(axis=0))

    def expected(self, per_call: Float[np.ndarray, "jobs models"]) -> Float[np.ndarray, " jobs"]:
        """Return what calls after the probe's are expected to take of something."""
        taken = _of_further(self.share, of_models(per_call, self.models))
        for one in self.compared:
            taken = taken + one.expected(of_models(per_call, one.of.order))
        return taken


def of_models(
    table: Shaped[np.ndarray, "jobs models"], models: Int[np.ndarray, "asked #jobs"]
) -> Shaped[np.ndarray, "asked jobs"]:
    """Return the rows of some models, jobs last."""
    if models.shape[1] == 1:
        return np.ascontiguousarray(table.T[models[:, 0]])
    jobs, columns = table.shape
    return np.asarray(table.ravel().take(models + np.arange(jobs) * columns))


def _of_further(
    share: Float32[np.ndarray, "asked jobs"], per_call: Float[np.ndarray, "asked jobs"]
) -> Float[np.ndarray, " jobs"]:
    """Return the mean of what the calls take, of models in order; the first is not called."""
    mean: Float[np.ndarray, " jobs"] = np.einsum("mj,mj->j", share[1:], per_call[1:])
    return mean


def _shares(
    chance: Float32[np.ndarray, "outcomes jobs"], taken: Bool[np.ndarray, "places outcomes jobs"]
) -> Float32[np.ndarray, "places jobs"]:
    """Return the probability that each place is taken; of the first, that no other one is."""
    share = np.empty((len(taken), chance.shape[1]), np.float32)
    for place in range(1, len(taken)):
        np.multiply(chance, taken[place]).sum(axis=0, out=share[place])
    share[0] = np.maximum(1 - share[1:].sum(axis=0), 0)
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
    order = others_after((probe,), cost_usd.shape[1])
    quality = after_failures(judged.quality[:, :, order].T, answered, order[:, None])
    calls = of_models(cost_usd, order[:, None]), of_models(follow, order[:, None])
    chance = np.ascontiguousarray(judged.chance.T)
    return ProbeOutcomes(order[:, None], chance, quality, *calls).at_price(price)


def others_after(first: tuple[int, ...], models: int) -> Int[np.ndarray, " models"]:
    """Return the columns of all models, some of them first."""
    return np.array([*first, *(model for model in range(models) if model not in first)])


def after_failures(
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

    def at_price(self, price: float | Float[np.ndarray, " jobs"]) -> SecondCalls:
        """Return what is asked next where a dollar must buy so much quality."""
        asked, best = self._leading(price)
        compared, best = self._compared(best, self._valued(price))
        for one in compared:
            asked &= ~(one.share > 0)
        share = _shares(self.chance, asked)
        cost = _of_further(share, self.cost_usd)
        for one in compared:
            cost = cost + one.expected(one.of.cost_usd)
        # The value is quality less the price of further calls, so that gives the quality.
        quality = np.einsum("kj,kj->j", self.chance, best) + self._each(price) * cost
        return SecondCalls(self.order, share, quality.astype(np.float32), cost, compared)

    def _leading(
        self, price: float | Float[np.ndarray, " jobs"]
    ) -> tuple[Bool[np.ndarray, "models outcomes jobs"], Float32[np.ndarray, "outcomes jobs"]]:
        """Return which model, other than the probe, has the largest value if one has, and it.

        Of equal ones the first has.
        """
        charge = charged(self.cost_usd, self.follow, self._each(price))
        best, value = self.quality[0].copy(), np.empty_like(self.chance)
        leads = np.zeros(self.quality.shape, np.bool_)
        for place in range(1, len(leads)):
            np.subtract(self.quality[place], charge[place], out=value)
            np.greater(value, best, out=leads[place])
            np.maximum(best, value, out=best)
        later = leads[-1].copy()
        for place in range(len(leads) - 2, 0, -1):
            now = leads[place]
            now &= ~later
            later |= now
        return leads, best

    def _compared(
        self, best: Float32[np.ndarray, "outcomes jobs"], valued: Sequence[ValuedComparison]
    ) -> tuple[tuple[ComparedCalls, ...], Float32[np.ndarray, "outcomes jobs"]]:
        """Return the second answers that are worth comparing, and the best value with them."""
        leads = []
        for one in valued:
            leads.append(one.value > best)
            best = np.maximum(best, one.value)
        calls, later = [], np.zeros(best.shape, np.bool_)
        for one, lead in zip(valued[::-1], leads[::-1], strict=True):
            share = np.multiply(self.chance, lead & ~later)
            later |= lead
            if share.any():
                calls.append(one.where(share))
        return tuple(calls[::-1]), best

    def _valued(self, price: float | Float[np.ndarray, " jobs"]) -> list[ValuedComparison]:
        """Return what each comparison is worth."""
        return [one.at_price(self.quality[0], self._each(price)) for one in self.comparisons]

    def kept(self, price: float) -> Float[np.ndarray, " jobs"]:
        """Return the quality that is kept of the probe's policy, less the price of later calls.

        Args:
            price: Quality that a dollar must buy.
        """
        _, best = self._leading(price)
        for one in self._valued(price):
            np.maximum(best, one.value, out=best)
        return np.asarray(np.einsum("kj,kj->j", self.chance, best))

    def _each(
        self, price: float | Float[np.ndarray, " jobs"]
    ) -> float | Float[np.ndarray, " jobs"]:
        return price if self.shared is None else price / self.shared
