"""Predicts what judging an answer may bring, before there is an answer.

A judgement falls into one of a few outcomes: the probe's estimate rises or falls much or little,
and the other models' with it. Chances and estimates of each are fitted to held-out judgements and
to what came of them, not to what the judge claims: their mean is the estimate before.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from routoo.judge.log_odds import fit_constant_shift, sigmoid, softmax

_OWN_BINS = 4
_MANY_ROWS = 1500
"""With so many judgements each bin is split by what they say of the other models."""
_PULL = 10.0
"""Curvature that holds an outcome's shift near the judge's mean shift there."""
_CHANCE_RIDGE = 5.0
_CHANCE_STEPS = 100
_CORRECTIONS = 3


@dataclass(frozen=True, slots=True)
class ExpectedJudgements:
    """What judging may bring for each job."""

    chance: Float32[np.ndarray, "jobs outcomes"]
    quality: Float32[np.ndarray, "jobs outcomes models"]


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
    ) -> "OutcomeModel":
        """Fit to held-out judgements.

        Args:
            prior: Log-odds before.
            shift: By how much the judge moves them.
            score: What came; NaN where not known.
            probe: Column of the model whose answers are judged.
        """
        outcome = _outcomes(shift, probe)
        count = int(outcome.max()) + 1
        fits = []
        for number in range(count):
            rows = outcome == number
            near = shift[rows].mean(axis=0)
            fits.append(fit_constant_shift(prior[rows], score[rows], near, _PULL))
        weight = _fit_chances(_inputs(prior, probe), outcome, count)
        return cls(weight, np.stack(fits).astype(np.float32))

    def __call__(self, prior: Float[np.ndarray, "jobs models"], probe: int) -> ExpectedJudgements:
        """Return chances of the outcomes, and the quality that each would show."""
        chance = softmax(_inputs(prior, probe) @ self.weight)
        shift = self.shift[None] + self._correction(prior, chance)[:, None]
        quality = sigmoid(prior[:, None] + shift)
        return ExpectedJudgements(chance.astype(np.float32), quality.astype(np.float32))

    def _correction(
        self, prior: Float[np.ndarray, "jobs models"], chance: Float[np.ndarray, "jobs outcomes"]
    ) -> Float64[np.ndarray, "jobs models"]:
        """Return the shift of all outcomes that makes their mean the estimate before."""
        wanted, correction = sigmoid(prior), np.zeros(prior.shape)
        for _ in range(_CORRECTIONS):
            quality = sigmoid(prior[:, None] + self.shift[None] + correction[:, None])
            mean = np.einsum("jk,jkm->jm", chance, quality)
            slope = np.einsum("jk,jkm->jm", chance, quality * (1 - quality))
            correction += np.clip((wanted - mean) / np.maximum(slope, 1e-4), -1, 1)
        return correction

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


def _inputs(
    prior: Float[np.ndarray, "jobs models"], probe: int
) -> Float64[np.ndarray, "jobs inputs"]:
    own, mean = prior[:, probe], prior.mean(axis=1)
    return np.stack([np.ones_like(own), own, mean - own, own**2 / 4], axis=1)


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
