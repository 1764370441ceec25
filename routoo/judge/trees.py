"""Boosted trees as plain arrays, evaluated by numpy alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float16, Float32, Int16

_BLOCK = 512
"""Rows that are evaluated at once: bounds memory."""


@dataclass(frozen=True, slots=True)
class BoostedTrees:
    """A sum of trees, each of which adds a value to every factor.

    All trees are complete: a row in node n goes on to node 2n + 1 where its feature is at most the
    threshold, else to node 2n + 2. Where a tree was cut earlier the threshold is infinite.
    """

    feature: Int16[np.ndarray, "trees nodes"]
    threshold: Float32[np.ndarray, "trees nodes"]
    value: Float16[np.ndarray, "trees leaves factors"]

    def __call__(
        self, features: Float32[np.ndarray, "rows features"]
    ) -> Float32[np.ndarray, "rows factors"]:
        """Return the sum over all trees for each row."""
        total = np.zeros((len(features), self.value.shape[2]), np.float32)
        for start in range(0, len(features), _BLOCK):
            part = slice(start, start + _BLOCK)
            total[part] = self._sums(features[part])
        return total

    def _sums(
        self, features: Float32[np.ndarray, "rows features"]
    ) -> Float32[np.ndarray, "rows factors"]:
        nodes, leaves = self.feature.shape[1], self.value.shape[1]
        trees = np.arange(len(self.feature))
        flat_feature, flat_threshold = self.feature.ravel(), self.threshold.ravel()
        flat, first = features.ravel(), trees * nodes
        row = np.arange(len(features))[:, None] * features.shape[1]
        node = np.zeros((len(features), len(trees)), np.int64)
        for _ in range(leaves.bit_length() - 1):
            at = first + node
            value = flat.take(row + flat_feature.take(at))
            node = 2 * node + 1 + (value > flat_threshold.take(at))
        leaf = trees * leaves + node - nodes
        values = self.value.reshape(-1, self.value.shape[2])
        return np.asarray(values.take(leaf, axis=0).sum(axis=1), np.float32)

    def widened(self, factors: int) -> "BoostedTrees":
        """Return trees that leave further factors as they are, up to so many."""
        more = factors - self.value.shape[2]
        return replace(self, value=np.pad(self.value, ((0, 0), (0, 0), (0, more))))

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a checkpoint keeps."""
        return {"feature": self.feature, "threshold": self.threshold, "value": self.value}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "BoostedTrees":
        """Read the arrays back."""
        return cls(tensors["feature"], tensors["threshold"], tensors["value"])

    @classmethod
    def joined(cls, parts: "list[BoostedTrees]") -> "BoostedTrees":
        """Return one sum of the trees of several sums."""
        return cls(
            np.concatenate([part.feature for part in parts]),
            np.concatenate([part.threshold for part in parts]),
            np.concatenate([part.value for part in parts]),
        )
