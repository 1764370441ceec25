"""Boosted trees as plain arrays, evaluated by numpy alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float16, Float32, Int16, Int64

_BLOCK = 32
"""Rows that are evaluated at once: what a block works on stays in the processor's caches."""


@dataclass(frozen=True, slots=True)
class _Level:
    """The nodes of one depth of all trees, tree after tree."""

    feature: Int64[np.ndarray, " nodes"]
    threshold: Float32[np.ndarray, " nodes"]


@dataclass(frozen=True)  # without slots: it keeps how it is evaluated
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
        """Return the sum over all trees for each row; it doesn't depend on the other rows."""
        total = np.zeros((len(features), self.value.shape[2]), np.float32)
        for start in range(0, len(features), _BLOCK):
            part = slice(start, start + _BLOCK)
            leaf = self._leaves(features[part])
            for factor, values in enumerate(self._values):
                total[part, factor] = values.take(leaf).sum(axis=1)
        return total

    @cached_property
    def _levels(self) -> Sequence[_Level]:
        """The nodes by depth, from the root."""
        nodes = [slice(2**depth - 1, 2 ** (depth + 1) - 1) for depth in range(self._depth)]
        return [
            _Level(self.feature[:, at].astype(np.int64).ravel(), self.threshold[:, at].ravel())
            for at in nodes
        ]

    @cached_property
    def _values(self) -> Float32[np.ndarray, "factors leaves"]:
        """The leaves' values by factor; in half precision their sum would lose digits."""
        by_factor = self.value.reshape(-1, self.value.shape[2]).T
        return np.ascontiguousarray(by_factor, np.float32)

    @property
    def _depth(self) -> int:
        leaves: int = self.value.shape[1]
        return leaves.bit_length() - 1

    def _leaves(
        self, features: Float32[np.ndarray, "rows features"]
    ) -> Int64[np.ndarray, "rows trees"]:
        """Return the place of each row's leaf of each tree among all leaves."""
        flat, row = features.ravel(), np.arange(len(features))[:, None] * features.shape[1]
        at = np.tile(np.arange(len(self.feature)), (len(features), 1))
        for level in self._levels:
            looked_at = level.feature.take(at)
            looked_at += row
            goes_right = flat.take(looked_at) > level.threshold.take(at)
            at *= 2  # a node's two successors stand beside each other in the next level
            at += goes_right
        return at

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
