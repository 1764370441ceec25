"""Asking a second cheap model after a probe, to see whether both answers agree.

Open answers on which two models agree are seldom wrong, so that a call of a dear model is spared.
Of a probe's answer that was judged, this says what a second one may show, and what asking for it is
worth: then the better of the two answers is kept, or a third model is asked. Dispatch decides by
the same rule once the answers are there (`routoo.pipeline.dispatch.judging`).

Everything is computed for many jobs at once, with the jobs last in memory, by arithmetic that is
many times as fast as numpy's own selections (where, argmax), which decide for one element after the
other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

NEVER = 1e30
"""Charge of a call that may not be made."""


def charged(
    cost_usd: Float[np.ndarray, "models jobs"],
    follow: Bool[np.ndarray, "models jobs"],
    price: float | Float[np.ndarray, " jobs"],
) -> Float32[np.ndarray, "models jobs"]:
    """Return the price of each call in quality, beyond all bounds where it may not be made."""
    charge = (cost_usd * price).astype(np.float32, copy=False)
    charge += np.multiply(~follow, np.float32(NEVER))  # np.where takes ten times as long
    return np.asarray(charge)


def largest(
    value: Float32[np.ndarray, "places *others"],
) -> tuple[Int[np.ndarray, "*others"], Float32[np.ndarray, "*others"]]:
    """Return where the largest value stands, and the value; changes the array.

    A place is written into the last bits of its values, which is six times as fast as comparing
    and copying places: of values that differ by less than a millionth (a few more with many
    places) any may count as the largest. Of equal ones the first does.
    """
    with_places(value)
    best = value.max(axis=0)
    return place_of(best, len(value)), best


def with_places(value: Float32[np.ndarray, "places *others"]) -> None:
    """Write the place of each value into its last bits."""
    last = _last_bits(len(value))
    bits = value.view(np.int32)
    bits &= ~last
    place = last - np.arange(len(value), dtype=np.int32)
    bits |= place.reshape(-1, *[1] * (value.ndim - 1))


def place_of(value: Float32[np.ndarray, "*any"], places: int) -> Int[np.ndarray, "*any"]:
    """Return the places that were written into values."""
    last = _last_bits(places)
    return np.asarray(last - (value.view(np.int32) & last))


def _last_bits(places: int) -> int:
    return int((1 << (places - 1).bit_length()) - 1)


_PROBE, _SECOND, _THIRD = range(3)
"""Places in the order of models; all others after these may be asked third."""


@runtime_checkable
class Judgements(Protocol):
    """What judging an answer may show, before there is one: a few outcomes for each job.

    Of a second answer there are a few outcomes after each one of the first answer's.
    They are read with the jobs last; arrays that lie so in memory are not copied.
    """

    @property
    def chance(self) -> Float32[np.ndarray, "jobs *earlier outcomes"]:
        """Probability of each outcome."""
        ...

    @property
    def quality(self) -> Float32[np.ndarray, "jobs *earlier outcomes models"]:
        """Quality of each model that the outcome shows; its mean is the quality before."""
        ...


Columns = Int[np.ndarray, " models"] | Int[np.ndarray, "models jobs"]
"""Columns of models, the same for all jobs or of each job its own."""
ExpectAgreement = Callable[
    [int, int, Columns, Float32[np.ndarray, "models outcomes jobs"]], Judgements
]
"""Takes the columns of a probe, of a second model, and of the models whose quality is wanted, these
two first, with the qualities that each outcome of the probe's answer shows of them."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Which models' answers may be compared with those of a batch's probes."""

    expect: ExpectAgreement
    may: Callable[[Int[np.ndarray, " jobs"], int, int], Bool[np.ndarray, " jobs"]]
    """Takes numbers of jobs, and the columns of a probe and of a second model."""
    seconds: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Columns of the second models, by the probe's column."""

    def some(self, jobs: Int[np.ndarray, " some"]) -> "Comparisons":
        """Return those of some jobs."""
        return replace(self, may=lambda some, probe, second: self.may(jobs[some], probe, second))


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a second model's answer may show of some jobs, after each outcome of the probe's."""

    order: Int[np.ndarray, "models #jobs"]
    """Columns of the probe, of the second model, and of those that may be asked third."""
    allowed: Bool[np.ndarray, " jobs"]
    chance: Float32[np.ndarray, "seconds outcomes jobs"]
    """Probability of each outcome of the second answer, given that of the probe's."""
    quality: Float32[np.ndarray, "models seconds outcomes jobs"]
    cost_usd: Float[np.ndarray, "models jobs"]
    follow: Bool[np.ndarray, "models jobs"]
    """Models that may be asked after the probe."""
    answered: Float32[np.ndarray, "models #jobs"] | None = None
    """Share of jobs that each model answers, what was there being kept in the others; None = 1."""

    @property
    def column(self) -> int:
        """Column of the second model."""
        return int(self.order[_SECOND, 0])

    def at_price(
        self,
        kept: Float32[np.ndarray, "outcomes jobs"],
        price: float | Float[np.ndarray, " jobs"],
    ) -> "ValuedComparison":
        """Return what asking the second model is worth after each outcome of the probe's answer.

        Args:
            kept: Quality of the probe's answer.
            price: Quality that a dollar must buy.
        """
        charge = charged(self.cost_usd, self.follow, price)
        options = np.empty((len(self.quality) - _SECOND, *self.quality.shape[1:]), np.float32)
        better_one = np.maximum(self.quality[_PROBE], self.quality[_SECOND], out=options[0])
        for option, model in zip(options[1:], range(_THIRD, len(self.quality)), strict=True):
            if self.answered is None:
                np.subtract(self.quality[model], charge[model], out=option)
            else:
                np.subtract(self.quality[model], better_one, out=option)
                np.multiply(option, self.answered[model], out=option)
                np.add(option, better_one - charge[model], out=option)
        value = np.einsum("koj,koj->oj", self.chance, options.max(axis=0))
        if self.answered is not None:
            value = kept + self.answered[_SECOND] * (value - kept)
        value -= charge[_SECOND]
        value -= np.multiply(~self.allowed, np.float32(NEVER))
        return ValuedComparison(self, value, options)


@dataclass(frozen=True, slots=True)
class ValuedComparison:
    """What asking a second model is worth at a price, and what may be done once it has answered."""

    of: Comparison
    value: Float32[np.ndarray, "outcomes jobs"]
    """Quality less the price of all further calls."""
    options: Float32[np.ndarray, "options seconds outcomes jobs"]
    """The same once it has answered: of keeping the better answer, then of asking each third.

    Changed by the first use.
    """

    def where(self, share: Float32[np.ndarray, "outcomes jobs"]) -> "ComparedCalls":
        """Return the calls of the outcomes in which it is asked, given their probabilities."""
        pick, _ = largest(self.options)
        asked = share if self.of.answered is None else share * self.of.answered[_SECOND]
        thirds = [
            (np.multiply(self.of.chance, pick == option).sum(axis=0) * asked).sum(axis=0)
            for option in range(1, len(self.options))
        ]
        shape = len(thirds), share.shape[1]
        return ComparedCalls(self.of, share, np.asarray(thirds, np.float32).reshape(shape))


@dataclass(frozen=True, slots=True)
class ComparedCalls:
    """The calls of a second model whose answer is compared with a probe's, and those after it."""

    of: Comparison
    share: Float32[np.ndarray, "outcomes jobs"]
    """Probability that the outcome comes up and the second model is asked."""
    thirds: Float32[np.ndarray, "thirds jobs"]
    """Probability that each of the models that may be asked third is."""

    @property
    def asked(self) -> Float32[np.ndarray, " jobs"]:
        """Probability that the second model is asked."""
        return np.asarray(self.share.sum(axis=0))

    def third(self, model: int) -> Float32[np.ndarray, " jobs"]:
        """Return the probability that a model is asked third, by its column."""
        return np.asarray((self.thirds * (self.of.order[_THIRD:] == model)).sum(axis=0))

    def expected(self, per_call: Float[np.ndarray, "models jobs"]) -> Float[np.ndarray, " jobs"]:
        """Return what these calls are expected to take of something, given what each call takes.

        Args:
            per_call: Of the models in the comparison's order.
        """
        later = np.einsum("mj,mj->j", self.thirds, per_call[_THIRD:])
        return np.asarray(self.asked * per_call[_SECOND] + later)
