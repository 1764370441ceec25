"""Calibration: from log-odds that rank well to probabilities that hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float32
from scipy.optimize import minimize

from routoo.predictor.logistic import log_loss, sigmoid

_RIDGE = 2.0
"""Pull of each model's slope towards 1: matters where a model has few outcomes."""


@dataclass(frozen=True, slots=True)
class Platt:
    """Per model `q = sigmoid(slope x logit + shift)` (Platt, 1999)."""

    slope: Float32[np.ndarray, " models"]
    shift: Float32[np.ndarray, " models"]

    @classmethod
    def fit(
        cls,
        logits: Float32[np.ndarray, "prompts models"],
        score: Float32[np.ndarray, "prompts models"],
    ) -> Self:
        """Fit slopes and shifts on predictions that were made without their own outcomes."""
        pairs = [_fit_one(logits[:, m], score[:, m]) for m in range(score.shape[1])]
        slope, shift = np.array(pairs, np.float32).reshape(-1, 2).T
        return cls(slope.copy(), shift.copy())

    def __call__(
        self, logits: Float32[np.ndarray, "prompts models"]
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return calibrated probabilities."""
        return sigmoid(logits * self.slope + self.shift)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {"slope": self.slope, "shift": self.shift}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Read the arrays back."""
        return cls(tensors["slope"], tensors["shift"])


def _fit_one(
    logits: Float32[np.ndarray, " prompts"], score: Float32[np.ndarray, " prompts"]
) -> tuple[float, float]:
    known = ~np.isnan(score)
    if not known.any():
        return 1.0, 0.0

    def objective(parameters: np.ndarray) -> float:
        fitted = sigmoid(logits[known] * parameters[0] + parameters[1])
        return float(log_loss(score[known], fitted).sum() + _RIDGE * (parameters[0] - 1) ** 2)

    found = minimize(objective, np.array([1.0, 0.0]), method="L-BFGS-B", bounds=[(0, 3), (-5, 5)])
    return float(found.x[0]), float(found.x[1])
