"""Features on one scale, so that one ridge penalty is fair to all of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

CLIP = 6.0
"""Standardised features are held within this many deviations: no outlier runs away with a score."""


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Shifts and scales each feature to mean 0 and deviation 1 over the training prompts."""

    mean: Float32[np.ndarray, " features"]
    scale: Float32[np.ndarray, " features"]

    @classmethod
    def fit(cls, features: Float32[np.ndarray, "prompts features"]) -> "Standardiser":
        """Measure the features; one that never varies is scaled to 0."""
        deviation = features.std(axis=0, dtype=np.float64)
        scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0)  # noqa: PLR2004
        mean = features.mean(axis=0, dtype=np.float64)
        return cls(mean.astype(np.float32), scale.astype(np.float32))

    def apply(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "prompts features"]:
        """Return the features on the common scale."""
        scaled = (features - self.mean) * self.scale
        return np.asarray(np.clip(scaled, -CLIP, CLIP, out=scaled))

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {"mean": self.mean, "scale": self.scale}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Standardiser":
        """Read the arrays back."""
        return cls(tensors["mean"], tensors["scale"])
