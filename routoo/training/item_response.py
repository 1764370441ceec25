"""Fits an item-response model: how hard items are, and what kinds of ability models have.

The log-odds of a right answer are `b_i + w_i . a_m`: an item's easiness, what it asks of each
ability, and the model's abilities (the compensatory multidimensional model; Reckase 2009, 4.1).
Items and models have normal priors, and are fitted in turn to the mode. Models that no table has
together are comparable by those that several tables have.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.special import expit, logit

from routoo.predictor.missing_values import known_mean

DIMENSIONS = 3
"""Abilities: the first is general strength, the others are kinds of prompts."""
ROUNDS = 12
_EASINESS_DEVIATION = 1.5
_ASKED_DEVIATION = (0.4, 0.5, 0.5)
_ABILITY_DEVIATION = (1.2, 1.0, 1.0)
_EDGE = 0.02


@dataclass(frozen=True, slots=True)
class ItemResponse:
    """What was fitted."""

    ability: Float64[np.ndarray, "models dimensions"]
    """Mean 0 over the models; the first in log-odds."""
    item: Float64[np.ndarray, "items parameters"]
    """Easiness, then what is asked of each ability."""

    def chance(
        self, ability: Float64[np.ndarray, "models dimensions"]
    ) -> Float32[np.ndarray, "items models"]:
        """Return how probably models of such abilities answer each item well."""
        return np.asarray(expit(self.item @ _with_one(ability).T), np.float32)


def fit_item_response(
    score: Float32[np.ndarray, "items models"], tasks: Int64[np.ndarray, " items"]
) -> ItemResponse:
    """Fit items and models in turn.

    Args:
        score: In [0, 1]; NaN where a model did not answer an item.
        tasks: Number of each item's table: easiness is drawn to that of its table.
    """
    goal = score.astype(np.float64)
    ability = _first_guess(score, tasks)
    item = np.zeros((len(score), DIMENSIONS + 1))
    spread = np.array([_EASINESS_DEVIATION, *_ASKED_DEVIATION])
    of_models = np.zeros_like(ability), np.array(_ABILITY_DEVIATION)
    for _ in range(ROUNDS):
        centre = _item_centre(item, score, tasks)
        item = _newton(item, _with_one(ability), goal, (centre, spread))
        ability = _newton(ability, item[:, 1:], goal.T, of_models, item[:, 0])
        ability = ability - ability.mean(axis=0)
    return ItemResponse(ability, item)


def _first_guess(
    score: Float32[np.ndarray, "items models"], tasks: Int64[np.ndarray, " items"]
) -> Float64[np.ndarray, "models dimensions"]:
    """Return general strength by models' levels, the rest by how they differ in kind."""
    levels = np.stack([known_mean(score[tasks == task], axis=0) for task in np.unique(tasks)])
    answered = np.stack([(~np.isnan(score[tasks == t])).any(axis=0) for t in np.unique(tasks)])
    odds = np.where(answered, logit(np.clip(levels, _EDGE, 1 - _EDGE)), np.nan)
    strength = np.zeros(score.shape[1])
    for _ in range(20):
        ease = np.nanmean(odds - strength, axis=1)
        strength = np.nanmean(odds - ease[:, None], axis=0)
    chance = expit(ease[np.unique(tasks, return_inverse=True)[1]][:, None] + strength)
    excess = np.nan_to_num(score - chance)
    excess -= excess.mean(axis=1, keepdims=True)
    kinds = np.linalg.eigh((excess.T @ excess).astype(np.float64))[1][:, -(DIMENSIONS - 1) :]
    kinds = kinds / np.maximum(kinds.std(axis=0), 1e-6)
    return np.concatenate([(strength - strength.mean())[:, None], kinds], axis=1)


def _item_centre(
    item: Float64[np.ndarray, "items parameters"],
    score: Float32[np.ndarray, "items models"],
    tasks: Int64[np.ndarray, " items"],
) -> Float64[np.ndarray, "items parameters"]:
    """Return where items' parameters are drawn to: their table's easiness, strength alone asked.

    The same for all tables, so that one table's models can't turn the axes for themselves.
    """
    centre = np.zeros_like(item)
    centre[:, 1] = 1.0
    for task in np.unique(tasks):
        rows = tasks == task
        level = known_mean(score[rows].reshape(1, -1), axis=1)
        guess = logit(np.clip(level, _EDGE, 1 - _EDGE))[0]
        centre[rows, 0] = item[rows, 0].mean() if item.any() else guess
    return centre


def _newton(
    start: Float64[np.ndarray, "rows parameters"],
    inputs: Float64[np.ndarray, "columns parameters"],
    goal: Float64[np.ndarray, "rows columns"],
    prior: tuple[Float64[np.ndarray, "rows parameters"], Float64[np.ndarray, " parameters"]],
    offset: Float64[np.ndarray, " columns"] | None = None,
) -> Float64[np.ndarray, "rows parameters"]:
    """Move each row's parameters by two Newton steps towards the mode of its posterior."""
    centre, deviation = prior
    precision, known, goal = deviation**-2.0, ~np.isnan(goal), np.nan_to_num(goal)
    found = np.where(start.any(axis=1, keepdims=True), start, centre)
    products = (inputs[:, :, None] * inputs[:, None, :]).reshape(len(inputs), -1)
    for _ in range(2):
        chance = expit(found @ inputs.T + (0 if offset is None else offset))
        slope = np.where(known, goal - chance, 0) @ inputs - precision * (found - centre)
        weight = np.where(known, chance * (1 - chance), 0)
        curvature = (weight @ products).reshape(len(found), *2 * [inputs.shape[1]])
        curvature += np.diag(precision)
        step = np.linalg.solve(curvature, slope[:, :, None])[:, :, 0]
        found = found + np.clip(step, -1.0, 1.0)
    return np.asarray(found)


def _with_one(
    ability: Float64[np.ndarray, "models dimensions"],
) -> Float64[np.ndarray, "models parameters"]:
    return np.concatenate([np.ones((len(ability), 1)), ability], axis=1)
