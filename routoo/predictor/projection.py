"""Features on one scale and of moderate width: standardise, then principal components."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from routoo.predictor.standardise import Standardiser

COMPONENTS = 256
"""Most principal components of the hidden states that are kept."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Hidden states to their principal components; the surface's features stand beside them."""

    standardiser: Standardiser
    components: Float32[np.ndarray, "hidden components"]
    """Orthonormal columns, widest spread first."""

    @classmethod
    def fit(cls, features: Float32[np.ndarray, "prompts features"], hidden: int) -> "Projection":
        """Measure scales and components.

        Args:
            features: Hidden states first, then the surface.
            hidden: How many of the features are hidden states.
        """
        standardiser = Standardiser.fit(features)
        scaled = standardiser.apply(features[:, :])[:, :hidden]
        _, vectors = np.linalg.eigh((scaled.T @ scaled).astype(np.float64) / len(scaled))
        kept = vectors[:, ::-1][:, : min(COMPONENTS, *scaled.shape)]
        # An eigenvector's sign is arbitrary: fix it, so that another build gives the same weights.
        signs = np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])])
        return cls(standardiser, (kept * signs).astype(np.float32))

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
