"""Fitting one more model from a few hundred graded answers, nothing else being fitted again.

Maximum a posteriori with Gaussian priors around the other models: without answers the new model is
their mean. The posterior is near normal at its mode (Laplace's approximation; Bishop 2006, 4.5).
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.special import expit

from routoo.errors import InputError
from routoo.predictor.adopted import basis, usual_tokens
from routoo.predictor.estimator import Estimator
from routoo.predictor.logistic import logit

MIN_ANSWERS = 10
"""With fewer graded answers there is nothing to tell a new model from the mean of the others."""
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


def adopt(
    estimator: Estimator,
    inputs: Float32[np.ndarray, "answers projected"],
    score: Float32[np.ndarray, " answers"],
    completion_tokens: Float32[np.ndarray, " answers"],
) -> Estimator:
    """Return the estimator with one more model, its last.

    Args:
        estimator: What was fitted on the other models.
        inputs: Projected features of the prompts that the new model answered; prompts that the
            estimator was fitted on do no harm.
        score: How well it answered, in [0, 1].
        completion_tokens: Lengths of its answers; NaN where not known.

    Raises:
        InputError: There are too few graded answers.
    """
    if len(score) < MIN_ANSWERS:
        raise InputError(
            "too few graded answers of the new model",
            value=len(score),
            remedy=f"Grade at least {MIN_ANSWERS}, better 200",
        )
    phi = basis(estimator.departure(inputs, seen=True)).astype(np.float64)
    theta, covariance = _mode(phi, score.astype(np.float64), *_prior(estimator))
    factor = _token_factor(estimator.tokens(inputs), completion_tokens)
    return replace(estimator, adopted=estimator.adopted.with_model(theta, covariance, factor))


def held_out_quality(
    estimator: Estimator,
    inputs: Float32[np.ndarray, "answers projected"],
    score: Float32[np.ndarray, " answers"],
    folds: Int64[np.ndarray, " answers"],
) -> Float32[np.ndarray, " answers"]:
    """Return what `adopt` would say of each graded answer had it not seen its fold."""
    phi = basis(estimator.departure(inputs, seen=True)).astype(np.float64)
    quality = np.zeros(len(score), np.float32)
    for fold in np.unique(folds):
        inside = folds != fold
        theta, _ = _mode(phi[inside], score[inside].astype(np.float64), *_prior(estimator))
        quality[~inside] = _chance(phi[~inside] @ theta)
    return quality


def _prior(estimator: Estimator) -> tuple[Vector, Vector]:
    level = float(logit(estimator.neighbours.means).mean())
    fitted = len(estimator.neighbours.means)
    mean = np.array([level, 1.0, *np.zeros(fitted)])
    deviation = [LEVEL_DEVIATION, SLOPE_DEVIATION, *np.full(fitted, LIKENESS_DEVIATION)]
    return mean, np.array(deviation) ** -2.0


def _mode(
    phi: Float64[np.ndarray, "answers basis"],
    score: Float64[np.ndarray, " answers"],
    mean: Vector,
    precision: Vector,
) -> tuple[Vector, Square]:
    """Climb to the posterior's mode by damped Newton steps; return it and the curvature's inverse.

    The posterior is log-concave and the prior bounds its curvature, so halving a step that
    overshoots always ends.
    """
    theta = mean.copy()
    value = _log_posterior(theta, phi, score, mean, precision)
    for _ in range(_NEWTON_STEPS):
        slope = phi.T @ (score - _chance(phi @ theta)) - precision * (theta - mean)
        step = np.linalg.solve(_curvature(theta, phi, precision), slope)
        while (moved := _log_posterior(theta + step, phi, score, mean, precision)) < value:
            step /= 2
        theta, value = theta + step, moved
        if np.abs(step).max() < _CLOSE:
            break
    return theta, np.linalg.inv(_curvature(theta, phi, precision))


def _log_posterior(
    theta: Vector,
    phi: Float64[np.ndarray, "answers basis"],
    score: Float64[np.ndarray, " answers"],
    mean: Vector,
    precision: Vector,
) -> float:
    logits = phi @ theta
    fit = float((score * logits - np.logaddexp(0, logits)).sum())
    return fit - float(precision @ (theta - mean) ** 2) / 2


def _curvature(
    theta: Vector, phi: Float64[np.ndarray, "answers basis"], precision: Vector
) -> Square:
    chance = _chance(phi @ theta)
    return np.asarray((phi * (chance * (1 - chance))[:, None]).T @ phi + np.diag(precision))


def _chance(logits: Float64[np.ndarray, " answers"]) -> Float64[np.ndarray, " answers"]:
    return np.asarray(expit(logits))


def _token_factor(
    expected: Float32[np.ndarray, "answers fitted"], known: Float32[np.ndarray, " answers"]
) -> float:
    """Return how much longer the new model's answers are than the others', pulled towards alike."""
    rows = ~np.isnan(known)
    usual = usual_tokens(expected)
    prior = PRIOR_LENGTHS * float(usual.mean())
    return float((known[rows].sum() + prior) / (usual[rows].sum() + prior))
