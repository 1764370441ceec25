"""Fits the general checkpoint: it knows how hard a prompt is, and places models it never saw.

An item-response model of many graded tables gives abilities and items (`fit_item_response`). Its
anchors are points among the abilities: made-up models that span strength and kind. The usual
predictor is fitted to the anchors' expected scores, so it estimates from a prompt how each kind of
model does on it. A real model is a vector over the anchors, fitted to its answers as an added model
is; vectors and public facts of all real models give the priors of models that come later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy import special

from routoo.domain.model_prior import REFERENCE_MODELS
from routoo.ports import Feedback
from routoo.predictor.added_models import Posterior, basis, fit_posterior, usual_tokens
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.estimator import Estimator
from routoo.predictor.fitting import FitOptions, FitResult, fit_estimator
from routoo.predictor.reference_models import FACTS, LENGTH, ReferenceModels, scaled_fact
from routoo.predictor.scores import known_mean, logit

DIMENSIONS = 3
"""Abilities: the first is general strength, the others are kinds of prompts."""
ROUNDS = 12
_EASINESS_DEVIATION = 1.5
_ASKED_DEVIATION = (0.4, 0.5, 0.5)
_ABILITY_DEVIATION = (1.2, 1.0, 1.0)
_EDGE = 0.02


@dataclass(frozen=True, slots=True)
class ItemResponse:
    """An item-response model: how hard items are, and what kinds of ability models have.

    The log-odds of a right answer are `b_i + w_i . a_m`: an item's easiness, what it asks of each
    ability, and the model's abilities (the compensatory multidimensional model; Reckase 2009, 4.1).
    Items and models have normal priors, and are fitted in turn to the mode. Models that no table
    has together are comparable by those that several tables have.
    """

    ability: Float64[np.ndarray, "models dimensions"]
    """Mean 0 over the models; the first in log-odds."""
    item: Float64[np.ndarray, "items parameters"]
    """Easiness, then what is asked of each ability."""

    def chance(
        self, ability: Float64[np.ndarray, "models dimensions"]
    ) -> Float32[np.ndarray, "items models"]:
        """Return how probably models of such abilities answer each item well."""
        return np.asarray(special.expit(self.item @ _with_one(ability).T), np.float32)


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
    odds = np.where(answered, special.logit(np.clip(levels, _EDGE, 1 - _EDGE)), np.nan)
    strength = np.zeros(score.shape[1])
    for _ in range(20):
        ease = np.nanmean(odds - strength, axis=1)
        strength = np.nanmean(odds - ease[:, None], axis=0)
    chance = special.expit(ease[np.unique(tasks, return_inverse=True)[1]][:, None] + strength)
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
        guess = special.logit(np.clip(level, _EDGE, 1 - _EDGE))[0]
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
        chance = special.expit(found @ inputs.T + (0 if offset is None else offset))
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


ANCHORS = (
    *((strength, 0.0, 0.0) for strength in (-1.6, -0.8, 0.0, 0.8, 1.6)),
    *((0.0, *kind) for kind in ((-1.5, 0.0), (1.5, 0.0), (0.0, -1.5), (0.0, 1.5))),
)
"""Abilities of the made-up models that the predictor is fitted to, in real models' deviations."""
ANCHOR_NAMES = tuple(f"routoo-anchor-{number + 1}" for number in range(len(ANCHORS)))
MIN_TASK_ANSWERS = 200
"""Fewer answers of one kind don't tell how a model's vector changes with the kind of prompts."""
MEMORY_PROMPTS = 5000
"""Training prompts that the checkpoint remembers: they are most of its size."""
_BROAD = np.array([1.5, 0.5])
_BROAD_LIKENESS = 0.5
_PRIOR_MODELS = 5.0
"""The joint distribution's prior counts as this many models."""


@dataclass(frozen=True, slots=True)
class GeneralPredictor:
    """A general predictor that was fitted."""

    estimator: Estimator
    fitted: FitResult
    anchors: OutcomeMatrix
    references: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What its manifest keeps beside the fit's options."""
        return {REFERENCE_MODELS: list(self.references)}


def fit_general(
    matrix: OutcomeMatrix,
    features: Float32[np.ndarray, "items features"],
    hidden: int,
    facts: Mapping[str, Mapping[str, float]],
    options: FitOptions,
    feedback: Feedback,
) -> GeneralPredictor:
    """Fit the anchors' predictor and the reference models.

    Args:
        matrix: Outcomes of real models; every item names its dataset.
        features: Hidden states, then the surface.
        hidden: How many of the features are hidden states.
        facts: Public facts of the models, by name: any of `FACTS` but the length.
        options: How the anchors' predictor is fitted.
        feedback: Shows how far it is.
    """
    tasks = np.unique([item.dataset or "" for item in matrix.items], return_inverse=True)[1]
    response = fit_item_response(matrix.score, tasks.astype(np.int64))
    chances = response.chance(np.array(ANCHORS) * response.ability.std(axis=0))
    tokens = _usual_tokens(matrix)
    anchors = OutcomeMatrix(matrix.items, ANCHOR_NAMES, chances, tokens)
    with feedback.progress_bar("Fitting folds", options.folds) as progress:
        fitted = fit_estimator(anchors, features, hidden, options, progress)
    references = _fit_references(matrix, fitted, features, facts, tasks.astype(np.int64))
    estimator = _thinned(replace(fitted.estimator, references=references), options.seed)
    return GeneralPredictor(estimator, fitted, anchors, matrix.models)


def _usual_tokens(matrix: OutcomeMatrix) -> Float32[np.ndarray, "items anchors"]:
    """Return the geometric mean of each item's known lengths: anchors answer at usual length."""
    logs = np.log(np.maximum(matrix.completion_tokens, 1))
    known = ~np.isnan(logs)
    count = known.sum(axis=1)
    total = np.where(known, logs, 0).sum(axis=1)
    usual = np.where(count > 0, np.exp(total / np.maximum(count, 1)), np.nan)
    return np.repeat(usual[:, None], len(ANCHORS), axis=1).astype(np.float32)


def _thinned(estimator: Estimator, seed: int) -> Estimator:
    """Return the estimator with fewer remembered prompts."""
    neighbours = estimator.neighbours
    if len(neighbours.vectors) <= MEMORY_PROMPTS:
        return estimator
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.choice(len(neighbours.vectors), MEMORY_PROMPTS, replace=False))
    kept = replace(neighbours, vectors=neighbours.vectors[rows], score=neighbours.score[rows])
    return replace(estimator, neighbours=kept)


def _fit_references(
    matrix: OutcomeMatrix,
    fitted: FitResult,
    features: Float32[np.ndarray, "items features"],
    facts: Mapping[str, Mapping[str, float]],
    tasks: Int64[np.ndarray, " items"],
) -> ReferenceModels:
    levels = fitted.estimator.neighbours.means
    departure = (logit(fitted.held_out_quality) - logit(levels)).astype(np.float32)
    broad = _broad_prior(levels)
    posteriors = [_posterior(departure, matrix.score[:, m], broad) for m in range(len(facts))]
    theta = np.stack([one.theta for one in posteriors])
    expected = fitted.estimator.tokens(fitted.estimator.projection.apply(features))
    lengths = _token_factors(matrix, usual_tokens(expected))
    values = _facts_matrix(matrix.models, facts, lengths)
    mean, covariance = _joint(np.concatenate([theta, values], axis=1))
    phi = basis(departure).astype(np.float64)
    return ReferenceModels(
        theta.astype(np.float32),
        np.exp(np.nan_to_num(lengths)).astype(np.float32),
        mean.astype(np.float32),
        covariance.astype(np.float32),
        _task_variance(matrix, departure, tasks, posteriors).astype(np.float32),
        (phi.T @ phi / len(phi)).astype(np.float32),
    )


def _broad_prior(levels: Float32[np.ndarray, " anchors"]) -> Posterior:
    mean = np.array([float(logit(levels).mean()), 1.0, *np.zeros(len(levels))])
    deviation = np.array([*_BROAD, *np.full(len(levels), _BROAD_LIKENESS)])
    return Posterior(mean, np.diag(deviation**2))


def _posterior(
    departure: Float32[np.ndarray, "items anchors"],
    score: Float32[np.ndarray, " items"],
    prior: Posterior,
) -> Posterior:
    rows = ~np.isnan(score)
    return fit_posterior(departure[rows], score[rows], prior, at_least=0)


def _token_factors(
    matrix: OutcomeMatrix, usual: Float32[np.ndarray, " items"]
) -> Float64[np.ndarray, " models"]:
    """Return the logarithm of each model's mean length over the usual one; NaN where unknown."""
    tokens = matrix.completion_tokens
    known = ~np.isnan(tokens)
    total = np.where(known, tokens, 0).sum(axis=0)
    expected = np.where(known, usual[:, None], 0).sum(axis=0)
    ratio = np.where(known.any(axis=0), total / np.maximum(expected, 1), np.nan)
    return np.asarray(np.log(np.maximum(ratio, 1e-3)), np.float64)


def _facts_matrix(
    models: Sequence[str],
    facts: Mapping[str, Mapping[str, float]],
    lengths: Float64[np.ndarray, " models"],
) -> Float64[np.ndarray, "models facts"]:
    values = np.full((len(models), len(FACTS)), np.nan)
    for row, model in enumerate(models):
        for column, name in enumerate(FACTS):
            value = facts[model].get(name, 0.0)
            if value > 0:
                values[row, column] = scaled_fact(name, value)
    values[:, LENGTH] = lengths
    return values


def _joint(
    values: Float64[np.ndarray, "models joint"],
) -> tuple[Float64[np.ndarray, " joint"], Float64[np.ndarray, "joint joint"]]:
    """Fit a normal distribution to rows with missing values by expectation maximisation.

    Source: Little and Rubin 2002, 11.2; the covariance is drawn to its own diagonal.
    """
    mean = np.nanmean(values, axis=0)
    diagonal = np.nanvar(values, axis=0) + 1e-3
    covariance = np.diag(diagonal)
    for _ in range(60):
        total, outer = np.zeros_like(mean), np.zeros_like(covariance)
        for row in values:
            known, gone = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
            filled, rest = row.copy(), np.zeros_like(covariance)
            if len(gone):
                gain = np.linalg.solve(
                    covariance[np.ix_(known, known)], covariance[np.ix_(known, gone)]
                ).T
                filled[gone] = mean[gone] + gain @ (row[known] - mean[known])
                left = gain @ covariance[np.ix_(known, gone)]
                rest[np.ix_(gone, gone)] = covariance[np.ix_(gone, gone)] - left
            total += filled
            outer += np.outer(filled, filled) + rest
        mean = total / len(values)
        scatter = outer - len(values) * np.outer(mean, mean)
        covariance = scatter + _PRIOR_MODELS * np.diag(diagonal)
        covariance /= len(values) + _PRIOR_MODELS
    return mean, covariance


def _task_variance(
    matrix: OutcomeMatrix,
    departure: Float32[np.ndarray, "items anchors"],
    tasks: Int64[np.ndarray, " items"],
    posteriors: Sequence[Posterior],
) -> Float64[np.ndarray, " basis"]:
    """Return how far models' vectors on one table lie from their vectors over all tables."""
    moved = []
    deviation = np.array([1.0, 0.3, *np.full(departure.shape[1], 0.2)])
    for column, posterior in enumerate(posteriors):
        known = ~np.isnan(matrix.score[:, column])
        its = [task for task in np.unique(tasks) if known[tasks == task].sum() >= MIN_TASK_ANSWERS]
        if len(its) <= 1:
            continue
        around = Posterior(posterior.theta, np.diag(deviation**2))
        for task in its:
            rows = known & (tasks == task)
            found = _posterior(departure[rows], matrix.score[rows, column], around)
            moved.append((found.theta - posterior.theta) ** 2)
    return np.mean(moved, axis=0) if moved else np.zeros(departure.shape[1] + 2)
