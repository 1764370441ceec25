"""The linear view: `q = sigmoid(h(prompt) . (c + e_m) + b_m)`.

`c` says how hard a prompt is for any model, `e_m` is the embedding of model m: what sets it apart.
There is far more evidence for `c`, so `e_m` is held shorter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from routoo.predictor.regression import Linear, fit_logistic
from routoo.predictor.views.view import TrainingItems


@dataclass(frozen=True, slots=True)
class LinearView:
    """Log-odds that are an affine function of the features."""

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
