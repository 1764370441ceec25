"""Stacking: one log-odds from several views, weighted by what they were worth on held-out items.

Each view is split into what it says of the prompt for all models (its mean over models) and what
it says of one model beyond that. The second is mostly noise, and choosing the best model by noisy
differences picks the luckiest one (the winner's curse): its own weights, fitted on held-out items,
shrink the differences as far as they deserve.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from scipy.optimize import minimize

from routoo.predictor.logistic import sigmoid

_RIDGE = 3.0
"""Pull of the views' weights towards equal shares, in units of one observation's loss."""

Logits = Float32[np.ndarray, "prompts models"]


@dataclass(frozen=True, slots=True)
class Stack:
    """Weights of the views' common and own parts, and each model's own level."""

    common: Float32[np.ndarray, " views"]
    own: Float32[np.ndarray, " views"]
    centre: Float32[np.ndarray, "views models"]
    """Mean of each view over the training items: a view's level is no evidence."""
    bias: Float32[np.ndarray, " models"]

    @classmethod
    def fit(cls, views: Float32[np.ndarray, "views items models"], score: Logits) -> "Stack":
        """Fit the weights, none below 0, on predictions made without the items' outcomes."""
        centre = views.mean(axis=1)
        common, own = _parts(views, centre)
        known = ~np.isnan(score)
        count, models = len(views), score.shape[1]
        goal = np.nan_to_num(score)
        start = np.concatenate([np.full(2 * count, 1 / count), np.zeros(models)])

        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            logits = _mixed(common, own, x[:count], x[count : 2 * count]) + x[2 * count :]
            error = np.where(known, sigmoid(logits) - goal, 0)
            loss = np.where(known, np.logaddexp(0, logits) - goal * logits, 0).sum(dtype=float)
            offset = x[: 2 * count] - 1 / count
            slope = [
                *(_RIDGE * offset[:count] + np.einsum("vi,im->v", common, error)),
                *(_RIDGE * offset[count:] + np.einsum("vim,im->v", own, error)),
            ]
            gradient = np.concatenate([slope, error.sum(axis=0)])
            return loss + _RIDGE / 2 * float(offset @ offset), gradient.astype(np.float64)

        bounds = [(0.0, 5.0)] * (2 * count) + [(-10.0, 10.0)] * models
        x = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        weights = x.astype(np.float32)
        return cls(weights[:count], weights[count : 2 * count], centre, weights[2 * count :])

    def __call__(self, views: Float32[np.ndarray, "views prompts models"]) -> Logits:
        """Return the stacked log-odds."""
        common, own = _parts(views, self.centre)
        return np.asarray(_mixed(common, own, self.common, self.own) + self.bias, np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        arrays = {"common": self.common, "own": self.own, "centre": self.centre}
        return {**arrays, "bias": self.bias}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Stack":
        """Read the arrays back."""
        return cls(tensors["common"], tensors["own"], tensors["centre"], tensors["bias"])


def _parts(
    views: Float32[np.ndarray, "views prompts models"],
    centre: Float32[np.ndarray, "views models"],
) -> tuple[Float32[np.ndarray, "views prompts"], Float32[np.ndarray, "views prompts models"]]:
    centred = views - centre[:, None, :]
    common = centred.mean(axis=2)
    return common, centred - common[:, :, None]


def _mixed(
    common: Float32[np.ndarray, "views prompts"],
    own: Float32[np.ndarray, "views prompts models"],
    common_weight: np.ndarray,
    own_weight: np.ndarray,
) -> Float[np.ndarray, "prompts models"]:
    level = np.tensordot(common_weight, common, 1)[:, None]
    return np.asarray(level + np.tensordot(own_weight, own, 1))
