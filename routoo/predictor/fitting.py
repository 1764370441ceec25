"""Fits an estimator to features and outcomes; all figures of it are on held-out items."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float32, Int64

from routoo.errors import InputError
from routoo.predictor.added_models import AddedModels
from routoo.predictor.answer_lengths import TokenHead
from routoo.predictor.calibration import Calibration, fit_calibration
from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, text_groups
from routoo.predictor.estimator import Estimator
from routoo.predictor.novelty import Novelty
from routoo.predictor.options import ClassWeight
from routoo.predictor.projection import Projection
from routoo.predictor.regression import Ridge
from routoo.predictor.stacking import VIEW_NAMES, EnsembleMember, StackingWeights
from routoo.predictor.views.domain import number_domains
from routoo.predictor.views.kernel import choose_landmarks
from routoo.predictor.views.neighbours import NEIGHBOURS, NeighbourView
from routoo.predictor.views.view import TrainingItems

MIN_ITEMS = 20
"""Fewer items can't be dealt into folds that every view can be fitted on."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How an estimator is fitted."""

    folds: int = 5
    """Members of the ensemble, each fitted without one part of the items."""
    ridge: Ridge = field(default_factory=lambda: Ridge(common=1000.0, own=3000.0))
    """Penalties of the linear view."""
    seed: int = 0
    class_weight: ClassWeight = ClassWeight.NONE
    """What outcomes count for in the linear view's loss; stack and calibration count all alike."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """An estimator, and held-out estimates by fits without the items' own folds."""

    estimator: Estimator
    held_out_quality: Float32[np.ndarray, "items models"]
    held_out_views: dict[str, Float32[np.ndarray, "items models"]]
    """Log-odds of each view before stacking."""
    calibration_methods: tuple[str, ...]


def fit_estimator(
    matrix: OutcomeMatrix,
    features: Float32[np.ndarray, "items features"],
    hidden: int,
    options: FitOptions,
    progress: Callable[[int], None] | None = None,
    *,
    tuned_on: Bool[np.ndarray, " items"] | None = None,
) -> FitResult:
    """Fit the views by folds, then stack and calibrate their held-out predictions.

    Args:
        matrix: Outcomes; at least two items a fold.
        features: Hidden states, then the surface.
        hidden: How many of the features are hidden states.
        options: Folds, penalties, seed, class weights.
        progress: Called with 1 when another fold is done.
        tuned_on: Items that the backbone was tuned on, whole folds: their estimates are too good,
            so weights and calibration are fitted on the other items.

    Raises:
        InputError: There are too few items.
    """
    groups = text_groups(matrix.prompts)
    check_enough(groups)
    folds = grouped_folds(groups, options.folds, options.seed)
    projection = Projection.fit(features, hidden)
    items = training_items(matrix, projection, features, options)
    crossed = _cross_fit(items, folds, options.folds, progress)
    score = matrix.score
    if tuned_on is not None:
        score = np.where(tuned_on[:, None], np.nan, score)
        folds = grouped_folds(groups, options.folds, options.seed + 1)
    combination = _combine(crossed.views, score, folds)
    return FitResult(
        _estimator(crossed, items, projection, combination, matrix.completion_tokens),
        _held_out_quality(crossed.views, score, folds),
        dict(zip(VIEW_NAMES, crossed.views, strict=True)),
        combination.methods,
    )


def check_enough(groups: Int64[np.ndarray, " items"]) -> None:
    """Check that a predictor can be fitted on so many different items.

    Raises:
        InputError: They are too few.
    """
    different = len(np.unique(groups))
    if different < MIN_ITEMS:
        raise InputError(
            "too few different items to fit a predictor",
            value=different,
            remedy=f"Collect outcomes of at least {MIN_ITEMS}, better several hundred",
        )


def training_items(
    matrix: OutcomeMatrix,
    projection: Projection,
    features: Float32[np.ndarray, "items features"],
    options: FitOptions,
) -> TrainingItems:
    """Return outcomes and projected features as the views are fitted on them."""
    inputs = projection.apply(features)
    return TrainingItems(
        inputs,
        projection.width,
        matrix.score,
        number_domains([item.subject or item.dataset for item in matrix.items]),
        choose_landmarks(inputs, options.seed),
        options.ridge,
        options.class_weight,
        options.seed,
    )


@dataclass(frozen=True, slots=True)
class _CrossFit:
    """Held-out estimates: each fold's by views that were fitted without it."""

    members: tuple[EnsembleMember, ...]
    views: Float32[np.ndarray, "views items models"]
    """Log-odds."""
    similarity: Float32[np.ndarray, "items neighbours"]
    """Cosine of each item and the nearest ones of other folds."""


def _cross_fit(
    items: TrainingItems,
    folds: Int64[np.ndarray, " items"],
    count: int,
    progress: Callable[[int], None] | None,
) -> _CrossFit:
    views = np.zeros((len(VIEW_NAMES), *items.score.shape), np.float32)
    similarity = np.zeros((len(items.features), NEIGHBOURS + 1), np.float32)
    members = []
    for fold in range(count):
        inside, held_out = items.take(folds != fold), items.features[folds == fold]
        member = EnsembleMember.fit(inside)
        neighbours = NeighbourView.fit(replace(inside, memory_seed=0))
        nearby = neighbours.nearby(held_out)
        views[:-1, folds == fold] = member.log_odds(held_out)
        views[-1, folds == fold] = neighbours.log_odds_of(nearby)
        similarity[folds == fold, : nearby.similarity.shape[1]] = nearby.similarity
        members.append(member)
        if progress:
            progress(1)
    return _CrossFit(tuple(members), views, similarity)


@dataclass(frozen=True, slots=True)
class _Combination:
    """How held-out log-odds of the views become one probability."""

    stacking: StackingWeights
    calibration: Calibration
    methods: tuple[str, ...]
    """Of the calibration, by model."""


def _combine(
    views: Float32[np.ndarray, "views items models"],
    score: Float32[np.ndarray, "items models"],
    folds: Int64[np.ndarray, " items"],
) -> _Combination:
    stacking = StackingWeights.fit(views, score)
    return _Combination(stacking, *fit_calibration(stacking(views), score, folds))


def _held_out_quality(
    views: Float32[np.ndarray, "views items models"],
    score: Float32[np.ndarray, "items models"],
    folds: Int64[np.ndarray, " items"],
) -> Float32[np.ndarray, "items models"]:
    """Return each fold's estimates by weights and curves that were fitted to the others.

    Those of the whole fit have seen every outcome: with a few hundred items they would be too good.
    """
    quality = np.zeros_like(score)
    for fold in np.unique(folds):
        held = folds == fold
        others = _combine(views[:, ~held], score[~held], folds[~held])
        quality[held] = others.calibration(others.stacking(views[:, held]))
    return quality


def _estimator(
    crossed: _CrossFit,
    items: TrainingItems,
    projection: Projection,
    combination: _Combination,
    completion_tokens: Float32[np.ndarray, "items models"],
) -> Estimator:
    return Estimator(
        projection,
        crossed.members,
        NeighbourView.fit(items),
        combination.stacking,
        combination.calibration,
        TokenHead.fit(items.features, completion_tokens, items.ridge),
        Novelty.fit(crossed.similarity),
        AddedModels.none(items.score.shape[1]),
    )
