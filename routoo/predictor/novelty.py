"""Measures how far a prompt is from the training prompts, and what that does to an estimate."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

NEAREST = 8
"""Distance is the mean of one minus cosine over this many nearest training prompts."""
_QUANTILES = 101
_FAR = 0.99


@dataclass(frozen=True, slots=True)
class Novelty:
    """Quantiles of a training prompt's distance from the other folds' prompts, evenly spaced."""

    distances: Float32[np.ndarray, " quantiles"]

    @classmethod
    def fit(cls, similarity: Float32[np.ndarray, "items neighbours"]) -> "Novelty":
        """Measure how far apart prompts of one distribution are."""
        quantiles = np.quantile(_distance(similarity), np.linspace(0, 1, _QUANTILES))
        return cls(quantiles.astype(np.float32))

    def __call__(
        self, similarity: Float32[np.ndarray, "prompts neighbours"]
    ) -> Float32[np.ndarray, " prompts"]:
        """Return the share of training prompts that were nearer to the rest, 0 to 1."""
        shares = np.linspace(0, 1, len(self.distances))
        share = np.interp(_distance(similarity), self.distances, shares)
        return np.asarray(share, np.float32)

    def trust(
        self, similarity: Float32[np.ndarray, "prompts neighbours"]
    ) -> Float32[np.ndarray, " prompts"]:
        """Return the share of an estimate's departure from the model's mean that is kept.

        1 within the training prompts' usual distance; beyond its 99th percentile it falls by a
        factor e with every further half spread (the 99th percentile less the median).
        """
        far = self.distances[int(_FAR * (_QUANTILES - 1))]
        spread = max(float(far - self.distances[_QUANTILES // 2]), 1e-3)
        beyond = np.maximum(_distance(similarity) - far, 0) / spread
        return np.asarray(np.exp(-2 * beyond), np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {"distances": self.distances}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Novelty":
        """Read the arrays back."""
        return cls(tensors["distances"])


def _distance(
    similarity: Float32[np.ndarray, "prompts neighbours"],
) -> Float32[np.ndarray, " prompts"]:
    return np.asarray(1 - similarity[:, :NEAREST].mean(axis=1))
