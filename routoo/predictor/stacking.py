"""Fits the views as an ensemble and stacks them: several log-odds become one.

An ensemble member holds the views as fitted without one fold of the items. The stack weighs views
by their worth on held-out items.

Each view is split into what it expects of all models on a prompt (its mean over models) and what it
expects of one model beyond that. The second is mostly noise, and choosing the best model by noisy
differences picks the luckiest one (the winner's curse): its own weights, fitted on held-out items,
shrink the differences as far as they were wrong. Some kinds of difference hold better than others
(strong models from weak ones, one family from another), so there is a weight for each principal
direction of how models' outcomes differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from routoo.predictor.scores import PRIOR_OUTCOMES, bounded_sigmoid, known_mean, with_prior
from routoo.predictor.views import FOLD_VIEWS
from routoo.predictor.views.neighbours import NeighbourView
from routoo.predictor.views.view import TrainingItems, View

VIEW_NAMES = (*(view.name for view in FOLD_VIEWS), NeighbourView.name)
"""All views of a new fit, in the order of the stack."""


@dataclass(frozen=True, slots=True)
class EnsembleMember:
    """The views as they were fitted without one fold."""

    views: tuple[View, ...]

    @classmethod
    def fit(cls, items: TrainingItems) -> "EnsembleMember":
        """Fit every view on the same items."""
        return cls(tuple(view.fit(items) for view in FOLD_VIEWS))

    def log_odds(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "views prompts models"]:
        """Return each view's log-odds, in the order of `FOLD_VIEWS`."""
        return np.stack([view.log_odds(features) for view in self.views])

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that are this member's own, named by view."""
        return {
            f"{view.name}_{key}": array
            for view in self.views
            for key, array in view.tensors().items()
            if key not in view.shared
        }

    def shared_tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that all members share."""
        return {key: view.tensors()[key] for view in self.views for key in view.shared}

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], shared: Mapping[str, np.ndarray]
    ) -> "EnsembleMember":
        """Read the arrays back; a view that the checkpoint was fitted without is left out.

        Args:
            tensors: The member's own arrays.
            shared: Arrays that all members share, among others.
        """
        views = []
        for view in FOLD_VIEWS:
            prefix = f"{view.name}_"
            own = {k.removeprefix(prefix): a for k, a in tensors.items() if k.startswith(prefix)}
            if own:
                views.append(view.from_tensors(own | {key: shared[key] for key in view.shared}))
        return cls(tuple(views))


_RIDGE = 10.0
"""Pull of the views' weights towards equal shares, and of a direction's weights towards those of
all directions together, in units of one observation's loss."""

Logits = Float32[np.ndarray, "prompts models"]


@dataclass(frozen=True, slots=True)
class StackingWeights:
    """Weights of the views' common and own parts, and each model's own level."""

    common: Float32[np.ndarray, " views"]
    own: Float32[np.ndarray, "views models models"]
    """What a view's own part is multiplied by; symmetric, its eigenvectors are the directions."""
    centre: Float32[np.ndarray, "views models"]
    """Mean of each view over the training items: a view's level is no evidence."""
    bias: Float32[np.ndarray, " models"]

    @classmethod
    def fit(
        cls, views: Float32[np.ndarray, "views items models"], score: Logits
    ) -> "StackingWeights":
        """Fit the weights, none below 0, on predictions made without the items' outcomes."""
        centre = views.mean(axis=1)
        common, own = _parts(views, centre)
        axes = _directions(score)
        goal, counts = with_prior(score, (~np.isnan(score)).astype(np.float32))
        # The views know nothing of the prior's item.
        common, own = np.pad(common, ((0, 0), (0, 1))), np.pad(own, ((0, 0), (0, 1), (0, 0)))
        evidence = _Evidence(common, own @ axes, axes, np.nan_to_num(goal), counts)
        equal = np.full((len(views), 1), 1 / len(views))
        together = evidence.weigh(equal[:, 0], equal)
        weights = evidence.weigh(together.common, np.repeat(together.own, len(axes), axis=1))
        mixing = (axes * weights.own[:, None]) @ axes.T
        parts = (weights.common, mixing, centre, weights.bias)
        return cls(*(np.asarray(part, np.float32) for part in parts))

    def __call__(self, views: Float32[np.ndarray, "views prompts models"]) -> Logits:
        """Return the stacked log-odds."""
        common, own = _parts(views, self.centre)
        level = np.tensordot(self.common, common, 1)[:, None]
        return np.asarray(level + (own @ self.own).sum(axis=0) + self.bias, np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        arrays = {"common": self.common, "own": self.own, "centre": self.centre}
        return {**arrays, "bias": self.bias}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "StackingWeights":
        """Read the arrays back."""
        own, models = tensors["own"], len(tensors["bias"])
        if own.ndim == 1:
            # Earlier checkpoints have one weight a view for all directions.
            own = own[:, None, None] * np.eye(models, dtype=np.float32)
        return cls(tensors["common"], own, tensors["centre"], tensors["bias"])


@dataclass(frozen=True, slots=True)
class _Weights:
    common: Float64[np.ndarray, " views"]
    own: Float64[np.ndarray, "views directions"]
    bias: Float64[np.ndarray, " models"]


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Views in parts, and the outcomes that the parts' weights are fitted to."""

    common: Float32[np.ndarray, "views items"]
    own: Float32[np.ndarray, "views items directions"]
    axes: Float32[np.ndarray, "models directions"]
    goal: Logits
    counts: Float32[np.ndarray, "items models"]
    """What an outcome counts for, 0 where there is none."""

    def weigh(self, common: np.ndarray, own: np.ndarray) -> _Weights:
        """Minimise log loss plus a penalty on the squared distance from given weights.

        Args:
            common: Weights of the common parts to start from and to be pulled to.
            own: The same of the own parts: one column a direction, or one for all of them.
        """
        from scipy.optimize import minimize

        views, models = len(common), self.goal.shape[1]
        start = np.concatenate([common, own.ravel(), np.zeros(models)])
        count = len(start) - models

        def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
            weights = _Weights(x[:views], x[views:count].reshape(own.shape), x[count:])
            loss, slope = self._loss(weights)
            offset = x[:count] - start[:count]
            slope[:count] += _RIDGE * offset
            return loss + _RIDGE / 2 * float(offset @ offset), slope

        bounds = [(0.0, 5.0)] * count + [(-10.0, 10.0)] * models
        x = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        return _Weights(x[:views], x[views:count].reshape(own.shape), x[count:])

    def _loss(self, weights: _Weights) -> tuple[float, Float64[np.ndarray, " weights"]]:
        """Return the log loss and its slope along every weight."""
        level = np.tensordot(weights.common, self.common, 1)[:, None]
        logits = level + (self.own * weights.own[:, None]).sum(axis=0) @ self.axes.T + weights.bias
        error = self.counts * (bounded_sigmoid(logits) - self.goal)
        loss = self.counts * (np.logaddexp(0, logits) - self.goal * logits)
        own = (self.own * (error @ self.axes)).sum(axis=1)
        if weights.own.shape[1] == 1:
            own = own.sum(axis=1, keepdims=True)
        common = self.common @ error.sum(axis=1)
        slope = np.concatenate([common, own.ravel(), error.sum(axis=0)])
        return float(loss.sum(dtype=float)), slope.astype(np.float64)


def _directions(score: Logits) -> Float32[np.ndarray, "models models"]:
    """Return orthonormal columns: the principal axes of how models differ on one item."""
    known = (~np.isnan(score)).astype(np.float32)
    excess = score - known_mean(score, axis=0)
    own = np.nan_to_num(excess - known_mean(excess, axis=1)[:, None])
    # Each pair of models by the items that both answered: a missing answer is no agreement.
    covariance = (own.T @ own) / (known.T @ known + PRIOR_OUTCOMES)
    return np.asarray(np.linalg.eigh(covariance.astype(np.float64))[1], np.float32)


def _parts(
    views: Float32[np.ndarray, "views prompts models"],
    centre: Float32[np.ndarray, "views models"],
) -> tuple[Float32[np.ndarray, "views prompts"], Float32[np.ndarray, "views prompts models"]]:
    centred = views - centre[:, None, :]
    common = centred.mean(axis=2)
    return common, centred - common[:, :, None]
