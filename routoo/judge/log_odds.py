"""Does arithmetic with log-odds: to and from probabilities, and shifts that fit scores best.

Fits move log-odds by small steps, so probabilities are neither rounded nor held from 0 and 1, as
those of `routoo.predictor.scores` are.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from routoo.predictor.scores import EDGE, sigmoid

_STEPS = 10


def log_odds(
    quality: Float[np.ndarray, "*shape"], precision: type[np.floating[Any]] = np.float64
) -> Float[np.ndarray, "*shape"]:
    """Return log-odds, at most 9.2 either way; NaN stays."""
    bounded = np.clip(np.asarray(quality, precision), EDGE, 1 - EDGE)
    return np.asarray(np.log(bounded / (1 - bounded)))


def softmax(value: Float[np.ndarray, "rows classes"]) -> Float64[np.ndarray, "rows classes"]:
    """Return the probabilities of classes."""
    raised = np.exp(value - value.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def products_by_row(
    left: Float[np.ndarray, "rows terms"], right: Float[np.ndarray, "columns terms"]
) -> Float[np.ndarray, "rows columns"]:
    """Return `left @ right.T`, with few terms; no row depends on which others stand beside it.

    BLAS takes other steps for more rows, so that its last digits would differ.
    """
    total = left[:, :1] * right[:, 0]
    for term in range(1, right.shape[1]):
        total = total + left[:, term, None] * right[:, term]
    return np.asarray(total)


def fit_constant_shift(
    prior: Float[np.ndarray, "rows models"],
    score: Float[np.ndarray, "rows models"],
    near: Float[np.ndarray, " models"],
    pull: float,
) -> Float64[np.ndarray, " models"]:
    """Return for each model the shift of all log-odds that fits the scores best.

    Args:
        prior: Log-odds before.
        score: Observed scores; NaN where not known.
        near: Shifts that the fitted ones are held near.
        pull: How strongly, as curvature.
    """
    known = ~np.isnan(score)
    wanted, shift = np.where(known, score, 0.0), np.array(near, np.float64)
    for _ in range(_STEPS):
        chance = sigmoid(prior + shift)
        slope = np.where(known, wanted - chance, 0.0).sum(axis=0) - pull * (shift - near)
        bend = np.where(known, chance * (1 - chance), 0.0).sum(axis=0) + pull
        shift = shift + np.clip(slope / bend, -1, 1)
    return shift


def fit_strength(
    prior: Float[np.ndarray, "rows models"],
    shift: Float[np.ndarray, "rows models"],
    score: Float[np.ndarray, "rows models"],
    known: Bool[np.ndarray, "rows models"],
    pull: float,
) -> float:
    """Return what to multiply shifts of log-odds by so that they fit the scores best.

    Args:
        prior: Log-odds before.
        shift: By how much each is to move.
        score: Observed scores, in [0, 1].
        known: Where a score is known.
        pull: How strongly the factor is held near 1, as curvature.
    """
    strength = 1.0
    for _ in range(_STEPS):
        chance = sigmoid(prior + strength * shift)
        slope = (np.where(known, score - chance, 0.0) * shift).sum() - pull * (strength - 1)
        bend = (np.where(known, chance * (1 - chance), 0.0) * shift**2).sum() + pull
        strength += float(np.clip(slope / bend, -0.5, 0.5))
    return min(max(strength, 0.0), 1.5)
