"""Adds models to a fitted predictor, each estimated from the estimates of the fitted models.

An added model's log-odds are `phi(d) . theta`, where `d` is how far the fitted models' estimates
depart from their levels on a prompt and `phi(d) = (1, c, d - c)`, `c` being the mean of `d` over
the models: its level, how strictly it follows a prompt's difficulty, and which models it is like.

`theta` is fitted to a few hundred graded answers, and nothing else is fitted again: maximum a
posteriori with Gaussian priors around the other models, so that without answers the new model is
their mean. The posterior is near normal at its mode (Laplace's approximation; Bishop 2006, 4.5).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.special import expit

from routoo.errors import InputError
from routoo.predictor.answer_lengths import AnswerLengths
from routoo.predictor.scores import bounded_sigmoid, logit

MIN_ANSWERS = 10
"""Fewer graded answers can't set a new model apart from the mean of the others."""
LEVEL_DEVIATION = 1.0
"""How far models' levels lie apart, in log-odds."""
SLOPE_DEVIATION = 0.2
"""How far models differ in how strictly they follow a prompt's difficulty, around 1."""
LIKENESS_DEVIATION = 0.2
"""How much of another model's own strengths a model may share."""
_NEWTON_STEPS = 50
_CLOSE = 1e-8

Vector = Float64[np.ndarray, " basis"]
Square = Float64[np.ndarray, "basis basis"]


@dataclass(frozen=True, slots=True)
class Posterior:
    """The distribution of one model's theta after its graded answers: nearly a normal one."""

    theta: Vector
    """Its mode."""
    covariance: Square


@dataclass(frozen=True, slots=True)
class AddedModels:
    """Holds what was fitted of the added models, in the order in which they were added."""

    theta: Float32[np.ndarray, "added basis"]
    covariance: Float32[np.ndarray, "added basis basis"]
    """Of theta, by Laplace's approximation."""
    token_factor: Float32[np.ndarray, " added"]
    """Length of an answer over `usual_tokens` to the power of `token_slope`."""
    token_slope: Float32[np.ndarray, " added"]
    """How far an answer's length follows that of the fitted models, as `AnswerLengths` says."""

    @classmethod
    def none(cls, fitted: int) -> "AddedModels":
        """Return the parameters of no added model, beside so many fitted ones."""
        basis = fitted + 2
        shapes = ((0, basis), (0, basis, basis), (0,), (0,))
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))

    def with_model(self, posterior: Posterior, lengths: AnswerLengths) -> "AddedModels":
        """Return these and one more model's."""
        return AddedModels(
            np.concatenate([self.theta, posterior.theta[None].astype(np.float32)]),
            np.concatenate([self.covariance, posterior.covariance[None].astype(np.float32)]),
            np.append(self.token_factor, np.float32(lengths.factor)),
            np.append(self.token_slope, np.float32(lengths.slope)),
        )

    def take(self, rows: list[int]) -> "AddedModels":
        """Return the added models at these positions."""
        kept = (self.theta, self.covariance, self.token_factor, self.token_slope)
        return AddedModels(*(array[rows] for array in kept))

    def quality(
        self, departure: Float32[np.ndarray, "prompts fitted"]
    ) -> Float32[np.ndarray, "prompts added"]:
        """Return the added models' qualities."""
        return bounded_sigmoid(basis(departure) @ self.theta.T)

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
        length = usual_tokens(expected)[:, None] ** self.token_slope * self.token_factor
        return np.asarray(np.maximum(length, 1), np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays a checkpoint keeps; none where nothing was added."""
        if not len(self.theta):
            return {}
        lengths = {"token_factor": self.token_factor, "token_slope": self.token_slope}
        return {"theta": self.theta, "covariance": self.covariance, **lengths}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], fitted: int) -> "AddedModels":
        """Read the arrays back; checkpoints that name no slopes were fitted with 1."""
        if not tensors:
            return cls.none(fitted)
        factor = tensors["token_factor"]
        slope = tensors.get("token_slope", np.ones_like(factor))
        return cls(tensors["theta"], tensors["covariance"], factor, slope)


def fit_posterior(
    departure: Float32[np.ndarray, "answers fitted"],
    score: Float32[np.ndarray, " answers"],
    prior: Posterior,
    *,
    at_least: int = MIN_ANSWERS,
) -> Posterior:
    """Fit one more model to its graded answers.

    Args:
        departure: How far the fitted models' log-odds depart from their levels on the prompts.
        score: How well the new model answered, in [0, 1].
        prior: What is known of it before.
        at_least: Fewer answers than these are refused.

    Raises:
        InputError: There are too few graded answers.
    """
    if len(score) < at_least:
        raise InputError(
            "too few graded answers of the new model",
            value=len(score),
            remedy=f"Grade at least {MIN_ANSWERS}, better 200",
        )
    phi = basis(departure).astype(np.float64)
    return _mode(phi, score.astype(np.float64), prior)


def cross_fit_quality(
    departure: Float32[np.ndarray, "answers fitted"],
    score: Float32[np.ndarray, " answers"],
    prior: Posterior,
    folds: Int64[np.ndarray, " answers"],
) -> Float32[np.ndarray, " answers"]:
    """Return what a fit without an answer's fold would estimate of that answer."""
    phi = basis(departure).astype(np.float64)
    quality = np.zeros(len(score), np.float32)
    for fold in np.unique(folds):
        inside = folds != fold
        posterior = _mode(phi[inside], score[inside].astype(np.float64), prior)
        quality[~inside] = _chance(phi[~inside] @ posterior.theta)
    return quality


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


def mean_of_fitted(levels: Float32[np.ndarray, " fitted"]) -> Posterior:
    """Return the prior of a model of which nothing is known: the mean of the fitted ones.

    Args:
        levels: The fitted models' mean scores.
    """
    level = float(logit(levels).mean())
    fitted = len(levels)
    mean = np.array([level, 1.0, *np.zeros(fitted)])
    deviation = [LEVEL_DEVIATION, SLOPE_DEVIATION, *np.full(fitted, LIKENESS_DEVIATION)]
    return Posterior(mean, np.diag(np.array(deviation) ** 2.0))


def _mode(
    phi: Float64[np.ndarray, "answers basis"],
    score: Float64[np.ndarray, " answers"],
    prior: Posterior,
) -> Posterior:
    """Find the posterior's mode by damped Newton steps, and its covariance by the curvature there.

    The posterior is log-concave and the prior bounds its curvature, so halving a step that
    overshoots always ends.
    """
    mean, precision = prior.theta, np.linalg.inv(prior.covariance)
    theta = mean.copy()
    value = _log_posterior(theta, phi, score, mean, precision)
    for _ in range(_NEWTON_STEPS):
        slope = phi.T @ (score - _chance(phi @ theta)) - precision @ (theta - mean)
        step = np.linalg.solve(_curvature(theta, phi, precision), slope)
        while (moved := _log_posterior(theta + step, phi, score, mean, precision)) < value:
            step /= 2
        theta, value = theta + step, moved
        if np.abs(step).max() < _CLOSE:
            break
    return Posterior(theta, np.linalg.inv(_curvature(theta, phi, precision)))


def _log_posterior(
    theta: Vector,
    phi: Float64[np.ndarray, "answers basis"],
    score: Float64[np.ndarray, " answers"],
    mean: Vector,
    precision: Square,
) -> float:
    logits = phi @ theta
    fit = float((score * logits - np.logaddexp(0, logits)).sum())
    return fit - float((theta - mean) @ precision @ (theta - mean)) / 2


def _curvature(
    theta: Vector, phi: Float64[np.ndarray, "answers basis"], precision: Square
) -> Square:
    chance = _chance(phi @ theta)
    return np.asarray((phi * (chance * (1 - chance))[:, None]).T @ phi + precision)


def _chance(logits: Float64[np.ndarray, " answers"]) -> Float64[np.ndarray, " answers"]:
    return np.asarray(expit(logits))
