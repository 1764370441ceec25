"""Models added to a fitted predictor: each stands on what is known of the models before it.

An added model's log-odds are `phi(d) . theta`, where `d` is how far the fitted models' estimates
depart from their levels on a prompt and `phi(d) = (1, c, d - c)`, `c` being the mean of `d` over
the models: its level, how strictly it follows a prompt's difficulty, and whom it takes after.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from routoo.predictor.logistic import sigmoid


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was learnt of the added models, in the order they were added."""

    theta: Float32[np.ndarray, "added basis"]
    covariance: Float32[np.ndarray, "added basis basis"]
    """Of theta, by Laplace's approximation."""
    token_factor: Float32[np.ndarray, " added"]
    """Length of an answer over the geometric mean of the fitted models' expected lengths."""

    @classmethod
    def none(cls, fitted: int) -> "Adopted":
        """Return that nothing was added to so many fitted models."""
        basis = fitted + 2
        shapes = ((0, basis), (0, basis, basis), (0,))
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))

    def with_model(
        self, theta: np.ndarray, covariance: np.ndarray, token_factor: float
    ) -> "Adopted":
        """Return the same with one more model."""
        return Adopted(
            np.concatenate([self.theta, theta[None].astype(np.float32)]),
            np.concatenate([self.covariance, covariance[None].astype(np.float32)]),
            np.append(self.token_factor, np.float32(token_factor)),
        )

    def quality(
        self, departure: Float32[np.ndarray, "prompts fitted"]
    ) -> Float32[np.ndarray, "prompts added"]:
        """Return the added models' qualities."""
        return sigmoid(basis(departure) @ self.theta.T)

    def variance(
        self, departure: Float32[np.ndarray, "prompts fitted"]
    ) -> Float32[np.ndarray, "prompts added"]:
        """Return the part of the qualities' variance that comes of few graded answers."""
        phi, quality = basis(departure), self.quality(departure)
        spread = np.einsum("pb,abc,pc->pa", phi, self.covariance, phi)
        return np.asarray((quality * (1 - quality)) ** 2 * spread, np.float32)

    def tokens(
        self, expected: Float32[np.ndarray, "prompts fitted"]
    ) -> Float32[np.ndarray, "prompts added"]:
        """Return the added models' expected tokens from those of the fitted ones."""
        return np.asarray(
            np.maximum(usual_tokens(expected)[:, None] * self.token_factor, 1), np.float32
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps; none where nothing was added."""
        arrays = {"theta": self.theta, "covariance": self.covariance}
        return {**arrays, "token_factor": self.token_factor} if len(self.theta) else {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], fitted: int) -> "Adopted":
        """Read the arrays back."""
        if not tensors:
            return cls.none(fitted)
        return cls(tensors["theta"], tensors["covariance"], tensors["token_factor"])


def basis(
    departure: Float32[np.ndarray, "prompts fitted"],
) -> Float32[np.ndarray, "prompts basis"]:
    """Return 1, the departures' mean, and each departure beyond that mean."""
    common = departure.mean(axis=1, keepdims=True)
    return np.concatenate([np.ones_like(common), common, departure - common], axis=1)


def usual_tokens(
    expected: Float32[np.ndarray, "prompts fitted"],
) -> Float32[np.ndarray, " prompts"]:
    """Return the geometric mean over models of their expected tokens."""
    return np.asarray(np.exp(np.log(expected).mean(axis=1)), np.float32)
