"""Predicts what judging an answer may bring, before there is an answer.

A judgement falls into one of a few outcomes: the probe's estimate rises or falls much or little,
and the other models' with it. Chances and estimates of each are fitted to held-out judgements and
to what came of them, not to what the judge claims: their mean is the estimate before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64

from routoo.judge.log_odds import fit_constant_shift, softmax

_OWN_BINS = 4
_MANY_ROWS = 1500
"""With so many judgements each bin is split by what they say of the other models."""
_PULL = 10.0
"""Curvature that holds an outcome's shift near the judge's mean shift there."""
_CHANCE_RIDGE = 5.0
_CHANCE_STEPS = 100
_SMALL_PRODUCT = 200_000
"""For so few multiplications BLAS starts no threads, which would wait for each other."""
_TINY = 1e-6
_ODDS = (-40.0, 40.0)
"""Log-odds outside of these are as good as certain, and their exponentials overflow float32."""


@dataclass(frozen=True, slots=True)
class ExpectedJudgements:
    """What judging may bring for each job, after each of its earlier outcomes where it has some.

    In memory the jobs lie last.
    """

    chance: Float32[np.ndarray, "jobs *earlier outcomes"]
    quality: Float32[np.ndarray, "jobs *earlier outcomes models"]


@dataclass(frozen=True, slots=True)
class OutcomeModel:
    """Chances of the outcomes given what was expected before, and their shifts of log-odds."""

    weight: Float32[np.ndarray, "inputs outcomes"]
    shift: Float32[np.ndarray, "outcomes models"]

    @classmethod
    def fit(
        cls,
        prior: Float[np.ndarray, "rows models"],
        shift: Float[np.ndarray, "rows models"],
        score: Float32[np.ndarray, "rows models"],
        probe: int,
        beside: Float[np.ndarray, " rows"] | None = None,
    ) -> "OutcomeModel":
        """Fit to held-out judgements.

        Args:
            prior: Log-odds before.
            shift: By how much the judge moves them.
            score: What came; NaN where not known.
            probe: Column of the model whose answers are judged.
            beside: Log-odds that the chances depend on beside the probe's own; None takes their
                mean over the models.
        """
        outcome = _outcomes(shift, probe)
        count = int(outcome.max()) + 1
        fits = []
        for number in range(count):
            rows = outcome == number
            near = shift[rows].mean(axis=0)
            fits.append(fit_constant_shift(prior[rows], score[rows], near, _PULL))
        inputs = _inputs(prior[:, probe], prior.mean(axis=1) if beside is None else beside)
        weight = _fit_chances(inputs.T, outcome, count)
        return cls(weight, np.stack(fits).astype(np.float32))

    @classmethod
    def none(cls, models: int) -> "OutcomeModel":
        """Return a model without outcomes."""
        return cls(np.zeros((0, 0), np.float32), np.zeros((0, models), np.float32))

    def __call__(
        self,
        prior: Float32[np.ndarray, "models *earlier jobs"],
        probe: int,
        mean: Float32[np.ndarray, "*earlier jobs"],
        models: Int[np.ndarray, " models"] | Int[np.ndarray, "models jobs"] | None = None,
    ) -> ExpectedJudgements:
        """Return chances of the outcomes, and the quality that each would show.

        Args:
            prior: Log-odds before, of the models that the quality is wanted of.
            probe: Row of the model whose answers are judged.
            mean: Mean log-odds over all models, or what else the chances were fitted to.
            models: Columns of the rows, or of each job its own; None = all, in order.
        """
        columns = np.arange(self.shift.shape[1]) if models is None else models
        chance = _chances(np.einsum("io,i...->o...", self.weight, _inputs(prior[probe], mean)))
        start = _compensated(prior, self.shift, chance, columns)
        # Models x outcomes, and jobs where each has its own models.
        factor = np.exp(self.shift).take(columns, axis=1).swapaxes(0, 1)
        factor = factor.reshape(*factor.shape[:2], *[1] * (prior.ndim - 2), -1)
        # The chance of being wrong is 1 / (1 + right x factor) = inverse / (inverse + factor).
        inverse = np.exp(-np.clip(start, *_ODDS))
        wrong = np.add(factor, inverse[:, None], dtype=np.float32)
        np.reciprocal(wrong, out=wrong)
        quality = _keep_mean(wrong, inverse, chance, 1 / (1 + np.exp(np.clip(prior, *_ODDS))))
        return ExpectedJudgements(chance.T, quality.T)

    def among(self, columns: Sequence[int]) -> "OutcomeModel":
        """Return the same outcomes with the shifts of some models."""
        return OutcomeModel(self.weight, self.shift[:, list(columns)])

    def extended(self, count: int, others: Bool[np.ndarray, " models"]) -> "OutcomeModel":
        """Return the outcomes of so many models; new ones are moved as the others are on average.

        Args:
            count: How many models.
            others: Which of the present ones are the others.
        """
        known = others if others.any() else ~others
        mean = self.shift[:, known].mean(axis=1, keepdims=True)
        new = np.repeat(mean, count - len(known), axis=1)
        return OutcomeModel(self.weight, np.concatenate([self.shift, new], axis=1))

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a checkpoint keeps."""
        return {"weight": self.weight, "shift": self.shift}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "OutcomeModel":
        """Read the arrays back."""
        return cls(tensors["weight"], tensors["shift"])


def _outcomes(shift: Float[np.ndarray, "rows models"], probe: int) -> Int64[np.ndarray, " rows"]:
    """Number the judgements by how far they move the probe's estimate, then the others'."""
    own = shift[:, probe]
    edges = np.unique(np.quantile(own, np.arange(1, _OWN_BINS) / _OWN_BINS))
    outcome = np.searchsorted(edges, own, side="right").astype(np.int64)
    if len(own) >= _MANY_ROWS and shift.shape[1] > 1:
        others = np.delete(shift, probe, axis=1).mean(axis=1)
        for number in range(len(edges) + 1):
            inside = outcome == number
            upper = inside & (others > np.median(others[inside]))
            outcome = np.where(upper, outcome + len(edges) + 1, outcome)
    return np.unique(outcome, return_inverse=True)[1].astype(np.int64)


def _compensated(
    prior: Float32[np.ndarray, "models *earlier jobs"],
    shift: Float32[np.ndarray, "outcomes columns"],
    chance: Float32[np.ndarray, "outcomes *earlier jobs"],
    columns: Int[np.ndarray, "models *jobs"],
) -> Float32[np.ndarray, "models *earlier jobs"]:
    """Return log-odds which, after the outcomes' shifts, mean about the estimate before.

    The mean of a sigmoid over a normal distribution is about a sigmoid of smaller slope (MacKay,
    The evidence framework applied to classification networks, Neural Computation 4, 1992).
    """
    if columns.ndim == 1:
        mean, square = _moments(shift[:, columns], chance)
    elif chance.ndim > columns.ndim:
        moved = shift.take(columns, axis=1)
        mean, square = (np.einsum("kmj,k...j->m...j", part, chance) for part in (moved, moved**2))
    else:
        each = columns * columns.shape[1] + np.arange(columns.shape[1])
        mean, square = (part.ravel().take(each) for part in _moments(shift, chance))
    variance = np.maximum(square - mean**2, 0)
    return np.asarray(prior * np.sqrt(1 + np.float32(np.pi / 8) * variance) - mean)


def _moments(
    shift: Float32[np.ndarray, "outcomes columns"],
    chance: Float32[np.ndarray, "outcomes *earlier jobs"],
) -> tuple[
    Float32[np.ndarray, "columns *earlier jobs"], Float32[np.ndarray, "columns *earlier jobs"]
]:
    """Return the means of the shifts and of their squares."""
    both, flat = np.concatenate([shift, shift**2], axis=1).T, chance.reshape(len(chance), -1)
    found = np.empty((len(both), flat.shape[1]), np.result_type(both, flat))
    step = max(1, _SMALL_PRODUCT // max(both.size, 1))
    for start in range(0, flat.shape[1], step):
        part = slice(start, start + step)
        np.matmul(both, flat[:, part], out=found[:, part])
    mean, square = found.reshape(2, -1, *chance.shape[1:])
    return mean, square


def _keep_mean(
    wrong: Float32[np.ndarray, "models outcomes *earlier jobs"],
    scale: Float32[np.ndarray, "models *earlier jobs"],
    chance: Float32[np.ndarray, "outcomes *earlier jobs"],
    before: Float32[np.ndarray, "models *earlier jobs"],
) -> Float32[np.ndarray, "models outcomes *earlier jobs"]:
    """Return the chances of being right in each outcome, whose mean is the estimate before.

    Args:
        wrong: Chances of being wrong divided by the scale, changed in place.
        scale: The scale.
        chance: Of the outcomes.
        before: Chance of being wrong from the prompt alone.
    """
    mean = scale * np.einsum("k...,mk...->m...", chance, wrong)
    fewer = before / mean
    more = (1 - before) / np.maximum(1 - mean, np.float32(_TINY))
    # One of the two is below 1: what is too likely is scaled down. Selecting it by np.where takes
    # several times as long.
    wrong *= (-scale * np.minimum(fewer, more))[:, None]
    wrong += np.minimum(more, np.float32(1))[:, None]
    return wrong


def _inputs(
    own: Float[np.ndarray, "*jobs"], mean: Float[np.ndarray, "*jobs"]
) -> Float[np.ndarray, "inputs *jobs"]:
    """Return what chances depend on: log-odds of the probe, and their mean over the models."""
    return np.stack([np.ones_like(own), own, mean - own, own**2 / 4])


def _chances(value: Float[np.ndarray, "outcomes *jobs"]) -> Float[np.ndarray, "outcomes *jobs"]:
    raised = np.exp(value - value.max(axis=0))
    raised /= raised.sum(axis=0)
    return np.asarray(raised)


def _fit_chances(
    inputs: Float64[np.ndarray, "rows inputs"], outcome: Int64[np.ndarray, " rows"], count: int
) -> Float32[np.ndarray, "inputs outcomes"]:
    """Fit a multinomial logistic regression.

    Each step uses the bound of the curvature that holds everywhere (Boehning, Annals of the
    Institute of Statistical Mathematics 44, 1992), so none can overshoot.
    """
    target = np.eye(count)[outcome]
    weight = np.zeros((inputs.shape[1], count))
    bound = inputs.T @ inputs / 2 + _CHANCE_RIDGE * np.eye(inputs.shape[1])
    for _ in range(_CHANCE_STEPS):
        slope = inputs.T @ (target - softmax(inputs @ weight)) - _CHANCE_RIDGE * weight
        weight += np.linalg.solve(bound, slope)
    return weight.astype(np.float32)
