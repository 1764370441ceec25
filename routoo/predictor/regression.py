"""Fits linear regressions with ridge penalties: logistic, least squares, multinomial logistic.

With several outputs a weight is the sum of a part that all outputs share and a part of its own,
each with its own penalty. Losses are convex and solved by L-BFGS from zero: the same data give the
same weights.

Class weights say how much each outcome counts in a loss. They move its optimum away from the
outcomes' chances. So only views are fitted with them, whose levels mean nothing; what turns views
into probabilities (stack, calibration) counts every held-out outcome alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from routoo.predictor.options import ClassWeight
from routoo.predictor.scores import known_mean, with_prior

MAX_ITERATIONS = 100
"""Of L-BFGS, which usually needs fewer."""


@dataclass(frozen=True, slots=True)
class Linear:
    """An affine map from features to one number an output."""

    weight: Float32[np.ndarray, "features outputs"]
    bias: Float32[np.ndarray, " outputs"]

    def __call__(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "prompts outputs"]:
        """Return one number a prompt and output: a logit, or the logarithm of a token count."""
        return np.asarray(features @ self.weight + self.bias)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {"weight": self.weight, "bias": self.bias}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "Linear":
        """Read the arrays back."""
        return cls(tensors["weight"], tensors["bias"])


@dataclass(frozen=True, slots=True)
class Ridge:
    """Penalties on squared weights, in units of one observation's loss; biases aren't penalised."""

    common: float
    """On the part that all outputs share."""
    own: float
    """On what sets an output apart."""


def outcome_weights(
    score: Float32[np.ndarray, "items models"], class_weight: ClassWeight
) -> Float32[np.ndarray, "items models"]:
    """Return the weight of each outcome in a loss.

    Balanced, an outcome `s` counts `s * w1 + (1 - s) * w0` with `w1 = 1 / (2 p)` and
    `w0 = 1 / (2 (1 - p))`, where `p` is the model's mean score: its successes and its failures then
    weigh the same together. Where all outcomes are failures, or successes, each counts 1.

    Args:
        score: In [0, 1], soft or not; NaN where a model did not answer.
        class_weight: How.

    Returns:
        Weights of mean 1 over each model's known outcomes, 0 where an outcome is missing.
    """
    known = np.asarray(~np.isnan(score), np.float32)
    if class_weight is ClassWeight.NONE:
        return known
    good, bad = known_mean(score, axis=0), known_mean(1 - score, axis=0)
    mixed = (good > 0) & (bad > 0)
    for_good, for_bad = (0.5 / np.where(mixed, share, 0.5) for share in (good, bad))
    weight = np.nan_to_num(score) * for_good + np.nan_to_num(1 - score) * for_bad
    return np.asarray(weight * known, np.float32)


def fit_logistic(
    features: Float32[np.ndarray, "prompts features"],
    score: Float32[np.ndarray, "prompts models"],
    ridge: Ridge,
    class_weight: ClassWeight = ClassWeight.NONE,
) -> Linear:
    """Fit log-odds of scores in [0, 1], soft or not; NaN is left out.

    Features are standardised: the average prompt's are 0.

    With class weights the log-odds are of as many successes as failures: they rank prompts and
    are no probabilities.
    """
    goal, weight = with_prior(score, outcome_weights(score, class_weight))
    average = np.zeros((1, features.shape[1]), np.float32)
    inputs = np.concatenate([features, average])
    return _fit(inputs, goal, ridge, binary_cross_entropy_with_logits, weight)


def fit_least_squares(
    features: Float32[np.ndarray, "prompts features"],
    target: Float32[np.ndarray, "prompts outputs"],
    ridge: Ridge,
) -> Linear:
    """Fit real targets, such as logarithms of token counts; NaN is left out."""
    known = (~np.isnan(target)).astype(np.float32)
    return _fit(features, target, ridge, mse_loss, known)


def fit_softmax(
    features: Float32[np.ndarray, "prompts features"],
    classes: Int64[np.ndarray, " prompts"],
    count: int,
    ridge: float,
) -> Linear:
    """Fit a multinomial logistic regression of `count` classes."""
    inputs, goal = torch.from_numpy(features), torch.from_numpy(classes)
    weight = torch.zeros(features.shape[1], count, requires_grad=True)
    bias = torch.zeros(count, requires_grad=True)

    def loss() -> Tensor:
        likelihood = cross_entropy(inputs @ weight + bias, goal, reduction="sum")
        return (likelihood + ridge * weight.square().sum()) / len(inputs)

    _minimise([weight, bias], loss)
    return Linear(weight.detach().numpy(), bias.detach().numpy())


def _fit(
    features: Float32[np.ndarray, "prompts features"],
    target: Float32[np.ndarray, "prompts outputs"],
    ridge: Ridge,
    error: Callable[..., Tensor],
    weight: Float32[np.ndarray, "prompts outputs"],
) -> Linear:
    inputs, goal = torch.from_numpy(features), torch.from_numpy(np.nan_to_num(target))
    counts = torch.from_numpy(weight)
    common = torch.zeros(features.shape[1], 1, requires_grad=True)
    own = torch.zeros(features.shape[1], target.shape[1], requires_grad=True)
    bias = torch.zeros(target.shape[1], requires_grad=True)

    def loss() -> Tensor:
        errors = error(inputs @ (common + own) + bias, goal, reduction="none")
        penalty = ridge.common * common.square().sum() + ridge.own * own.square().sum()
        return ((errors * counts).sum() + penalty) / len(inputs)

    _minimise([common, own, bias], loss)
    return Linear((common + own).detach().numpy(), bias.detach().numpy())


def _minimise(parameters: list[Tensor], loss: Callable[[], Tensor]) -> None:
    """Minimise a convex loss from zero by L-BFGS: the same data give the same weights."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=MAX_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = loss()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]
