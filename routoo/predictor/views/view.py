"""States what a view does: it is fitted on outcomes, asked for log-odds, kept in a checkpoint.

The linear view stands here, too, as the plainest one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int64

from routoo.predictor.options import ClassWeight
from routoo.predictor.regression import Linear, Ridge, fit_logistic


@dataclass(frozen=True, slots=True)
class TrainingItems:
    """The data and penalties that views are fitted with; each view takes what it needs."""

    features: Float32[np.ndarray, "items projected"]
    """Principal components of the backbone's hidden states, then the surface's features."""
    components: int
    """How many of the features are principal components."""
    score: Float32[np.ndarray, "items models"]
    """In [0, 1]; NaN where a model did not answer."""
    domains: Int64[np.ndarray, " items"]
    """Number of each item's domain."""
    landmarks: Float16[np.ndarray, "landmarks projected"]
    """Features of some items, the same ones in every member of the ensemble."""
    ridge: Ridge
    class_weight: ClassWeight
    memory_seed: int = 0
    """Draws the items that a view remembers where it can't remember all."""

    def take(
        self, rows: Int64[np.ndarray, " rows"] | Bool[np.ndarray, " items"]
    ) -> "TrainingItems":
        """Return some of the items, by position or by mask."""
        return replace(
            self,
            features=self.features[rows],
            score=self.score[rows],
            domains=self.domains[rows],
        )


@runtime_checkable
class View(Protocol):
    """One of several ways to estimate every model's quality from a prompt's features.

    A new view is one file with a class like this and one line in `views.FOLD_VIEWS`; the stack
    weighs it by what it was worth on held-out items. Its arrays are named
    `member<fold>.<name>_<key>` in a checkpoint.
    """

    name: ClassVar[str]
    """Names its arrays in a checkpoint and its figures in the manifest."""
    shared: ClassVar[tuple[str, ...]]
    """Keys of arrays that are the same in every member: a checkpoint keeps them once."""

    @classmethod
    def fit(cls, items: TrainingItems) -> "View":
        """Fit the view."""
        ...

    def log_odds(
        self, features: Float32[np.ndarray, "prompts projected"]
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return each model's log-odds of a good answer, up to a scale and a level."""
        ...

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a checkpoint keeps."""
        ...

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "View":
        """Read the arrays back.

        Raises:
            KeyError: One is missing.
        """
        ...


@dataclass(frozen=True, slots=True)
class LinearView:
    """Log-odds that are an affine function of the features: `h(prompt) . (c + e_m) + b_m`.

    `c` says how hard a prompt is for any model, `e_m` is the embedding of model m: what sets it
    apart. There is far more evidence for `c`, so `e_m` is held shorter.
    """

    name: ClassVar[str] = "linear"
    shared: ClassVar[tuple[str, ...]] = ()
    linear: Linear

    @classmethod
    def fit(cls, items: TrainingItems) -> "LinearView":
        """Fit a logistic regression; class weights count in its loss, and in no other view's."""
        return cls(fit_logistic(items.features, items.score, items.ridge, items.class_weight))

    def log_odds(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return log-odds; with class weights, those of as many successes as failures."""
        return self.linear(features)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a checkpoint keeps."""
        return self.linear.tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "LinearView":
        """Read the arrays back."""
        return cls(Linear.from_tensors(tensors))
