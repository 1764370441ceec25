"""Estimates completion tokens: of fitted models from a prompt's features, of added ones from those.

A fitted model's answer length is taken to be log-normal, with a mean that is linear in the features
of the prompt. An added model's is `factor * usual ** slope`, `usual` being the geometric mean of
the fitted models' expected lengths for the prompt. With slope 0 all prompts are expected to take
the model's mean length, with slope 1 the spread is that of the fitted models. A plan takes the
prompts that look cheap, so a spread that answers don't bear out makes it too cheap: the slope is
drawn to 0, and is no greater than answers support that it was not fitted to.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from routoo.predictor.regression import Linear, Ridge, fit_least_squares
from routoo.predictor.scores import known_mean

PLACED_SLOPE = 0.3
"""Slope of a model that is placed by a prior: within one open table the slopes of real models have
medians of 0.0 to 0.5, and to tables that it was not fitted to the general checkpoint predicts no
length. From table to table slopes are near 1, which is given up for a small spread in a batch: live
calls correct a level, not a spread."""
PLACED_CENTRE_TOKENS = 100.0
"""Usual length at which a placed model's level is kept: the geometric mean over the open tables but
the one whose answers are single letters."""
SLOPE_DEVIATION = 0.3
"""How far slopes lie from 0, before answers."""
LEVEL_DEVIATION = 1.0
"""How far the logarithm of a model's mean length lies from what is taken before its answers."""
_USUAL_VARIANCE = 0.25
"""Of the logarithm of one model's lengths; counts as `_USUAL_COUNT` answers."""
_USUAL_COUNT = 2
_MIN_ANSWERS = 3
"""Fewer known lengths bear no slope out."""
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


@dataclass(frozen=True, slots=True)
class AnswerLengths:
    """Expected length of a model's answer: `factor * usual ** slope`, in tokens."""

    factor: float
    slope: float = 1.0

    @classmethod
    def placed(cls, factor: float) -> "AnswerLengths":
        """Return the lengths of a model that is placed by a prior.

        Args:
            factor: Length of its answers over the usual one.
        """
        return cls(factor * PLACED_CENTRE_TOKENS ** (1 - PLACED_SLOPE), PLACED_SLOPE)

    def fitted(
        self,
        usual: Float32[np.ndarray, " answers"],
        known: Float32[np.ndarray, " answers"],
    ) -> "AnswerLengths":
        """Return the lengths after answers; their mean over these prompts is that of the answers.

        Mean and slope are drawn to what was known before as a normal prior does it, which a few
        answers outweigh.

        Args:
            usual: Geometric mean of the fitted models' expected lengths, in tokens.
            known: Lengths of the model's answers; NaN where not known.
        """
        rows = ~np.isnan(known)
        if not rows.any():
            return self
        logs = np.log(usual[rows]).astype(np.float64)
        length = np.maximum(known[rows], 1).astype(np.float64)
        slope = supported_slope(logs, np.log(length))
        shape = np.exp(slope * logs).mean()
        before = self.factor * np.exp(self.slope * logs).mean()
        variance = _variance(np.log(length) - slope * logs)
        weight = len(length) / (len(length) + variance / LEVEL_DEVIATION**2)
        mean = np.exp(weight * np.log(length.mean()) + (1 - weight) * np.log(before))
        return AnswerLengths(float(mean / shape), slope)


def supported_slope(
    predicted: Float64[np.ndarray, " answers"], found: Float64[np.ndarray, " answers"]
) -> float:
    """Return the slope of `found` over `predicted`, in [0, 1], as far as held-out answers bear it.

    The slope is that of ridge regression. It is multiplied by the share, at most 1, of the
    departures predicted without an answer that this answer shows, each answer left out in turn:
    the least-squares weight of stacked predictions (Breiman, Stacked regressions, 1996).

    Args:
        predicted: Logarithms of expected lengths.
        found: Logarithms of known lengths.
    """
    count = len(found)
    if count < _MIN_ANSWERS:
        return 0.0
    along, rise = predicted - predicted.mean(), found - found.mean()
    ridge = _variance(found) / SLOPE_DEVIATION**2
    spread, common = along @ along + ridge, along @ rise
    # Without one answer the means move, too: its departures and products grow by this.
    left_out = count / (count - 1)
    slopes = (common - left_out * along * rise) / (spread - left_out * along**2)
    expected = slopes * left_out * along
    size = float(expected @ expected)
    share = float(expected @ (left_out * rise)) / size if size > 0 else 0.0
    return float(np.clip(common / spread, 0, 1) * np.clip(share, 0, 1))


def _variance(logs: Float64[np.ndarray, " answers"]) -> float:
    """Return the variance around the mean, drawn to the usual one where answers are few."""
    squares = float(((logs - logs.mean()) ** 2).sum())
    return (squares + _USUAL_COUNT * _USUAL_VARIANCE) / (len(logs) + _USUAL_COUNT)
