"""Estimates completion tokens: each model's answer length is taken to be log-normal."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from routoo.predictor.missing_values import known_mean
from routoo.predictor.regression import Linear, Ridge, fit_least_squares

UNKNOWN_TOKENS = 256.0
"""Length assumed where no outcome of any model has one."""
_LOG_LIMIT = 12.0


@dataclass(frozen=True, slots=True)
class TokenHead:
    """Estimates the logarithm of an answer's length, around which lengths spread normally."""

    linear: Linear
    half_variance: Float32[np.ndarray, " models"]
    """Half the variance of the logarithm: what separates the mean from the median."""
    ceiling: Float32[np.ndarray, " models"]
    """Longest answer seen of each model: no estimate exceeds it."""

    @classmethod
    def fit(
        cls,
        features: Float32[np.ndarray, "items features"],
        tokens: Float32[np.ndarray, "items models"],
        ridge: Ridge,
    ) -> "TokenHead":
        """Fit on known lengths; a model without any is given the mean of the others."""
        logs = np.log(np.maximum(tokens, 1)).astype(np.float32)
        if np.isnan(logs).all():
            logs[:] = np.log(UNKNOWN_TOKENS)
        unknown = np.isnan(logs).all(axis=0)
        logs[:, unknown] = known_mean(logs, axis=1, empty=np.nan)[:, None]
        linear = fit_least_squares(features, logs, ridge)
        variance = known_mean((logs - linear(features)) ** 2, axis=0)
        ceiling = np.exp(np.where(np.isnan(logs), 0, logs).max(axis=0))
        return cls(linear, variance / 2, ceiling.astype(np.float32))

    def __call__(
        self, features: Float32[np.ndarray, "prompts features"]
    ) -> Float32[np.ndarray, "prompts models"]:
        """Return expected tokens, at least 1: the mean of the log-normal, not its median."""
        logs = np.minimum(self.linear(features) + self.half_variance, _LOG_LIMIT)
        return np.asarray(np.clip(np.exp(logs), 1, self.ceiling), np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps."""
        spread = {"half_variance": self.half_variance, "ceiling": self.ceiling}
        return {**self.linear.tensors(), **spread}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> "TokenHead":
        """Read the arrays back."""
        return cls(Linear.from_tensors(tensors), tensors["half_variance"], tensors["ceiling"])
