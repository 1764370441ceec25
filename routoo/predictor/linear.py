"""The linear view: `q = sigmoid(h(prompt) . e_m + b_m)` with ridge-penalised model embeddings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

MAX_ITERATIONS = 100


@dataclass(frozen=True, slots=True)
class Linear:
    """An affine map from features to one number a model."""

    weight: Float32[np.ndarray, "features models"]
    """Column m is the embedding of model m in feature space."""
    bias: Float32[np.ndarray, " models"]

    def __call__(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return one number a prompt and model: a logit, or the logarithm of a token count."""
        return np.asarray(features @ self.weight + self.bias)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        return {"weight": self.weight, "bias": self.bias}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> Self:
        """Read the arrays back."""
        return cls(tensors["weight"], tensors["bias"])


def fit_logistic(
    features: Float32[np.ndarray, "prompts features"],
    score: Float32[np.ndarray, "prompts models"],
    ridge: float,
) -> Linear:
    """Fit log-odds of the scores.

    Args:
        features: Standardised features.
        score: In [0, 1], soft or not; NaN is left out.
        ridge: Penalty on the squared weights, in units of one observation's loss; biases go free.
    """
    return _fit(features, score, ridge, binary_cross_entropy_with_logits)


def fit_least_squares(
    features: Float32[np.ndarray, "prompts features"],
    target: Float32[np.ndarray, "prompts outputs"],
    ridge: float,
) -> Linear:
    """Fit real targets, such as logarithms of token counts; arguments as in `fit_logistic`."""
    return _fit(features, target, ridge, mse_loss)


def _fit(
    features: Float32[np.ndarray, "prompts features"],
    target: Float32[np.ndarray, "prompts outputs"],
    ridge: float,
    loss: Callable[..., Tensor],
) -> Linear:
    """Minimise the convex loss from zero by L-BFGS: the same data give the same weights."""
    inputs, goal = torch.from_numpy(features), torch.from_numpy(np.nan_to_num(target))
    known = torch.from_numpy(~np.isnan(target)).float()
    weight = torch.zeros(features.shape[1], target.shape[1], requires_grad=True)
    bias = torch.zeros(target.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        errors = loss(inputs @ weight + bias, goal, reduction="none")
        total = ((errors * known).sum() + ridge * weight.square().sum()) / len(inputs)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return Linear(weight.detach().numpy(), bias.detach().numpy())
