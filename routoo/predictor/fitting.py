"""Fitting: from features and outcomes to an estimator, every figure of it cross-fitted."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from routoo.predictor.calibration import Platt
from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, text_groups
from routoo.predictor.estimator import Estimator
from routoo.predictor.linear import Linear, fit_least_squares, fit_logistic
from routoo.predictor.memory import Memory
from routoo.predictor.standardise import Standardiser


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What a fit may be told."""

    folds: int = 5
    """Parts of the cross-fit."""
    ridge: float = 1000.0
    """Penalty on the linear view's weights, in units of one observation's loss."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Fitted:
    """An estimator, and what its parts said of the items each was fitted without."""

    estimator: Estimator
    held_out_quality: Float32[np.ndarray, "items models"]


def fit_estimator(
    matrix: OutcomeMatrix, features: Float32[np.ndarray, "items features"], options: FitOptions
) -> Fitted:
    """Fit the views by folds, then the calibration on their held-out predictions."""
    folds = grouped_folds(text_groups(matrix.prompts), options.folds, options.seed)
    standardiser = Standardiser.fit(features)
    scaled = standardiser.apply(features.copy())
    members, held_out = _cross_fit(scaled, matrix.score, folds, options.ridge)
    platt = Platt.fit(held_out, matrix.score)
    tokens = fit_least_squares(scaled, _log_tokens(matrix.completion_tokens), options.ridge)
    memory = Memory.fit(scaled, options.seed)
    estimator = Estimator(standardiser, members, platt, tokens, memory)
    return Fitted(estimator, platt(held_out))


def _cross_fit(
    scaled: Float32[np.ndarray, "items features"],
    score: Float32[np.ndarray, "items models"],
    folds: Int64[np.ndarray, " items"],
    ridge: float,
) -> tuple[tuple[Linear, ...], Float32[np.ndarray, "items models"]]:
    held_out = np.zeros_like(score)
    members = []
    for fold in range(int(folds.max()) + 1):
        inside = folds != fold
        member = fit_logistic(scaled[inside], score[inside], ridge)
        held_out[~inside] = member(scaled[~inside])
        members.append(member)
    return tuple(members), held_out


def _log_tokens(
    tokens: Float32[np.ndarray, "items models"],
) -> Float32[np.ndarray, "items models"]:
    """Return logarithms; a model whose answers' lengths are unknown is taken to give 1 token."""
    logs = np.log(np.maximum(tokens, 1))
    return np.where(np.isnan(tokens).all(axis=0), np.float32(0), logs).astype(np.float32)
