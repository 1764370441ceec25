"""The kernel view: Gaussian-kernel ridge regression on landmarks (Nystroem).

Smooth where the linear view is straight; Williams and Seeger 2001 for the landmarks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float16, Float32

from routoo.predictor.scores import known_mean
from routoo.predictor.views.view import TrainingItems

LANDMARKS = 1000
RIDGE = 0.3
"""Penalty on the function's squared norm, in units of one item's squared error."""
WIDTH = 1.0
"""Kernel exp(-WIDTH x squared distance / mean squared length of a landmark)."""
_JITTER = 1e-3


@dataclass(frozen=True, slots=True)
class KernelView:
    """Expects the score above the model's mean, as a smooth function of the features."""

    name: ClassVar[str] = "kernel"
    shared: ClassVar[tuple[str, ...]] = ("landmarks",)
    landmarks: Float16[np.ndarray, "landmarks features"]
    weight: Float32[np.ndarray, "landmarks models"]

    @classmethod
    def fit(cls, items: TrainingItems) -> "KernelView":
        """Solve for the weights.

        Where a model did not answer, the mean of the others' excess stands in for its own. Class
        weights don't count: one system of equations serves all models, with weights it would be one
        a model.
        """
        from scipy.linalg import solve

        score, landmarks = items.score, items.landmarks
        excess = score - known_mean(score, axis=0)
        common = known_mean(excess, axis=1)[:, None]
        target = np.where(np.isnan(excess), common, excess)
        across = _kernel(items.features, landmarks)
        among = _kernel(landmarks.astype(np.float32), landmarks)
        gram = (across.T @ across).astype(np.float64) + RIDGE * among
        gram[np.diag_indices_from(gram)] += _JITTER
        return cls(landmarks, solve(gram, across.T @ target, assume_a="pos").astype(np.float32))

    def log_odds(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return the expected score above the model's mean, times 4: near log-odds of one half."""
        return np.asarray(4 * (_kernel(features, self.landmarks) @ self.weight))

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {"landmarks": self.landmarks, "weight": self.weight}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "KernelView":
        """Read the arrays back."""
        return cls(tensors["landmarks"], tensors["weight"])


def choose_landmarks(
    features: Float32[np.ndarray, "prompts features"], seed: int
) -> Float16[np.ndarray, "landmarks features"]:
    """Draw training prompts to serve as landmarks."""
    count = min(LANDMARKS, len(features))
    rows = np.random.default_rng(seed).choice(len(features), count, replace=False)
    return features[np.sort(rows)].astype(np.float16)


def _kernel(
    features: Float32[np.ndarray, "prompts features"],
    landmarks: Float16[np.ndarray, "landmarks features"],
) -> Float32[np.ndarray, "prompts landmarks"]:
    points = landmarks.astype(np.float32)
    lengths = np.square(points).sum(axis=1)
    squares = np.square(features).sum(axis=1)[:, None] + lengths
    distance = np.maximum(squares - 2 * features @ points.T, 0)
    return np.asarray(np.exp(-distance * (WIDTH / lengths.mean())), np.float32)
