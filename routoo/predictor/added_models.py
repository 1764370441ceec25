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
from routoo.predictor.logistic import logit, sigmoid

MIN_ANSWERS = 10
"""Fewer graded answers can't set a new model apart from the mean of the others."""
LEVEL_DEVIATION = 1.0
"""How far models' levels lie apart, in log-odds."""
SLOPE_DEVIATION = 0.2
"""How far models differ in how strictly they follow a prompt's difficulty, around 1."""
LIKENESS_DEVIATION = 0.2
"""How much of another model's own strengths a model may share."""
PRIOR_LENGTHS = 3.0
"""The fitted models' lengths count as this many known lengths of the new one."""
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
    """Length of an answer over the geometric mean of the fitted models' expected lengths."""

    @classmethod
    def none(cls, fitted: int) -> "AddedModels":
        """Return the parameters of no added model, beside so many fitted ones."""
        basis = fitted + 2
        shapes = ((0, basis), (0, basis, basis), (0,))
        return cls(*(np.zeros(shape, np.float32) for shape in shapes))

    def with_model(self, posterior: Posterior, token_factor: float) -> "AddedModels":
        """Return these and one more model's."""
        return AddedModels(
            np.concatenate([self.theta, posterior.theta[None].astype(np.float32)]),
            np.concatenate([self.covariance, posterior.covariance[None].astype(np.float32)]),
            np.append(self.token_factor, np.float32(token_factor)),
        )

    def take(self, rows: list[int]) -> "AddedModels":
        """Return the added models at these positions."""
        return AddedModels(self.theta[rows], self.covariance[rows], self.token_factor[rows])

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
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], fitted: int) -> "AddedModels":
        """Read the arrays back."""
        if not tensors:
            return cls.none(fitted)
        return cls(tensors["theta"], tensors["covariance"], tensors["token_factor"])


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


def fit_token_factor(
    expected: Float32[np.ndarray, "answers fitted"],
    known: Float32[np.ndarray, " answers"],
    before: float = 1.0,
) -> float:
    """Return how much longer the new model's answers are than the others'.

    Args:
        expected: The fitted models' expected lengths, in tokens.
        known: Lengths of the new model's answers; NaN where not known.
        before: What is taken without answers; the result is pulled towards it.
    """
    rows = ~np.isnan(known)
    usual = usual_tokens(expected)
    prior = PRIOR_LENGTHS * float(usual.mean())
    return float((known[rows].sum() + before * prior) / (usual[rows].sum() + prior))


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
