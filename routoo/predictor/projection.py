"""Brings features to one scale and moderate width: standardise, then principal components."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

CLIP = 6.0
"""Standardised features are held within this many deviations: no outlier runs away with a score."""
_CONSTANT_DEVIATION = 1e-6
"""A feature that deviates less over the training prompts is taken not to vary."""
COMPONENTS = 256
"""Most principal components of the hidden states that are kept."""
_EXACT_WIDTH = 2048
"""Hidden states wider than this have their components by randomised iteration: exact ones take the
cube of the width, minutes for three layers of a decoder of 1.5B."""


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Shifts and scales each feature to mean 0 and deviation 1 over the training prompts."""

    mean: Float32[np.ndarray, " features"]
    scale: Float32[np.ndarray, " features"]

    @classmethod
    def fit(cls, features: Float32[np.ndarray, "prompts features"]) -> "Standardiser":
        """Measure the features; one that never varies is scaled to 0."""
        deviation = features.std(axis=0, dtype=np.float64)
        varies = deviation > _CONSTANT_DEVIATION
        scale = np.where(varies, 1 / np.maximum(deviation, _CONSTANT_DEVIATION), 0)
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


@dataclass(frozen=True, slots=True)
class Projection:
    """Reduces hidden states to principal components; features of the surface stay as they are."""

    standardiser: Standardiser
    components: Float32[np.ndarray, "hidden components"]
    """Orthonormal columns, widest spread first."""

    @classmethod
    def fit(cls, features: Float32[np.ndarray, "prompts features"], hidden: int) -> "Projection":
        """Measure scales and components; the same features always give the same ones.

        Source of the randomised ones: Halko, Martinsson and Tropp 2011.

        Args:
            features: Hidden states first, then the surface.
            hidden: How many of the features are hidden states.
        """
        from sklearn.decomposition import PCA

        standardiser = Standardiser.fit(features)
        scaled = standardiser.apply(features)[:, :hidden]
        # Both are exact; of few prompts the first is many times cheaper, of many the second.
        exact = "full" if 2 * len(scaled) < hidden else "covariance_eigh"
        solver = exact if hidden <= _EXACT_WIDTH else "randomized"
        count = min(COMPONENTS, *scaled.shape)
        axes = PCA(count, svd_solver=solver, iterated_power=4, random_state=0).fit(scaled)
        return cls(standardiser, axes.components_.T.astype(np.float32))

    @property
    def width(self) -> int:
        """Number of components."""
        return int(self.components.shape[1])

    def apply(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "prompts projected"]:
        """Return components, then the surface's standardised features."""
        scaled = self.standardiser.apply(features)
        hidden = len(self.components)
        return np.concatenate([scaled[:, :hidden] @ self.components, scaled[:, hidden:]], axis=1)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {**self.standardiser.tensors(), "components": self.components}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Projection":
        """Read the arrays back."""
        return cls(Standardiser.from_tensors(tensors), tensors["components"])
