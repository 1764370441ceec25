"""Memory of the training prompts: how far a prompt is from all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float16, Float32

NEIGHBOURS = 8
"""Novelty is the mean distance to this many nearest training prompts."""
MEMORY_PROMPTS = 8192
"""Most prompts kept: bounds the checkpoint and the time of a look-up."""
_QUANTILES = 101
_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Memory:
    """Unit vectors of training prompts, and how far apart these usually are."""

    vectors: Float16[np.ndarray, "memory width"]
    distances: Float32[np.ndarray, " quantiles"]
    """Quantiles of a training prompt's distance from the others, evenly spaced."""

    @classmethod
    def fit(cls, embeddings: Float32[np.ndarray, "prompts width"], seed: int) -> Self:
        """Keep the prompts, or a random part of them where they are too many."""
        units = _units(embeddings)
        if len(units) > MEMORY_PROMPTS:
            rows = np.random.default_rng(seed).choice(len(units), MEMORY_PROMPTS, replace=False)
            units = units[np.sort(rows)]
        vectors = units.astype(np.float16)
        nearest = _nearest_distances(units, vectors, NEIGHBOURS + 1)[:, 1:]
        spread = nearest.mean(axis=1) if nearest.size else np.zeros(1, np.float32)
        quantiles = np.quantile(spread, np.linspace(0, 1, _QUANTILES))
        return cls(vectors, quantiles.astype(np.float32))

    def novelty(
        self, embeddings: Float32[np.ndarray, "prompts width"]
    ) -> Float32[np.ndarray, " prompts"]:
        """Return the share of training prompts that lie nearer to the others than these do.

        Returns:
            In [0, 1]; beyond the farthest training prompt it is 1.
        """
        nearest = _nearest_distances(_units(embeddings), self.vectors, NEIGHBOURS).mean(axis=1)
        shares = np.linspace(0, 1, len(self.distances))
        return np.asarray(np.interp(nearest, self.distances, shares), np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {"vectors": self.vectors, "distances": self.distances}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Read the arrays back."""
        return cls(tensors["vectors"], tensors["distances"])


def _units(
    embeddings: Float32[np.ndarray, "prompts width"],
) -> Float32[np.ndarray, "prompts width"]:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.maximum(lengths, 1e-12), np.float32)


def _nearest_distances(
    units: Float32[np.ndarray, "prompts width"],
    memory: Float16[np.ndarray, "memory width"],
    count: int,
) -> Float32[np.ndarray, "prompts count"]:
    """Return cosine distances to the nearest of the memory, ascending, by blocks of prompts."""
    count = min(count, len(memory))
    wide = memory.astype(np.float32).T
    blocks = []
    for start in range(0, len(units), _BLOCK):
        distance = 1 - units[start : start + _BLOCK] @ wide
        blocks.append(np.sort(np.partition(distance, count - 1, axis=1)[:, :count], axis=1))
    return np.concatenate(blocks) if blocks else np.zeros((0, count), np.float32)
