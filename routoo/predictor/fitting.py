"""Fitting: from features and outcomes to an estimator, every figure of it cross-fitted."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int64

from routoo.errors import InputError
from routoo.predictor.adopted import Adopted
from routoo.predictor.calibration import Calibration, fit_calibration
from routoo.predictor.completion_tokens import TokenHead
from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, text_groups
from routoo.predictor.estimator import Estimator
from routoo.predictor.member import ALL_VIEWS, Member
from routoo.predictor.novelty import Novelty
from routoo.predictor.options import ClassWeight
from routoo.predictor.projection import Projection
from routoo.predictor.regression import Ridge
from routoo.predictor.stacking import Stack
from routoo.predictor.views.domain import number_domains
from routoo.predictor.views.kernel import choose_landmarks
from routoo.predictor.views.neighbours import NEIGHBOURS, Neighbours

MIN_ITEMS = 20
"""Fewer can't be dealt into folds that each show every view something."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """What a fit may be told."""

    folds: int = 5
    """Members of the ensemble, each fitted without one part of the items."""
    ridge: Ridge = field(default_factory=lambda: Ridge(common=1000.0, own=3000.0))
    """Penalties of the linear view."""
    seed: int = 0
    class_weight: ClassWeight = ClassWeight.NONE
    """What outcomes count for in the linear view's loss; stack and calibration count all alike."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """An estimator, and what such a fit said of the items it was made without."""

    estimator: Estimator
    held_out_quality: Float32[np.ndarray, "items models"]
    held_out_views: dict[str, Float32[np.ndarray, "items models"]]
    """Log-odds of each view before stacking."""
    calibration_methods: tuple[str, ...]


@dataclass(slots=True)
class _CrossFit:
    """Held-out predictions as they are filled in, fold by fold."""

    views: Float32[np.ndarray, "views items models"]
    similarity: Float32[np.ndarray, "items neighbours"]
    members: list[Member]


def fit_estimator(
    matrix: OutcomeMatrix,
    features: Float32[np.ndarray, "items features"],
    hidden: int,
    options: FitOptions,
    progress: Callable[[int], None] | None = None,
    *,
    told: Bool[np.ndarray, " items"] | None = None,
) -> Fitted:
    """Fit the views by folds, then stack and calibrate their held-out predictions.

    Args:
        matrix: Outcomes; at least two items a fold.
        features: Hidden states, then the surface.
        hidden: How many of the features are hidden states.
        options: Folds, penalties, seed, class weights.
        progress: Told when another fold is done.
        told: Items whose outcomes the features know of: their estimates flatter, so that weights
            and calibration are left to the other items. They must be whole folds.

    Raises:
        InputError: There are too few items.
    """
    groups = text_groups(matrix.prompts)
    check_enough(groups)
    folds = grouped_folds(groups, options.folds, options.seed)
    projection = Projection.fit(features, hidden)
    inputs = projection.apply(features)
    landmarks = choose_landmarks(inputs, options.seed)
    domains = number_domains([item.subject or item.dataset for item in matrix.items])
    crossed = _CrossFit(
        np.zeros((len(ALL_VIEWS), *matrix.score.shape), np.float32),
        np.zeros((len(inputs), NEIGHBOURS + 1), np.float32),
        [],
    )
    for fold in range(options.folds):
        inside = folds != fold
        member = Member.fit(
            inputs[inside],
            matrix.score[inside],
            domains[inside],
            landmarks,
            options.ridge,
            options.class_weight,
        )
        _hold_out(crossed, member, matrix.score, inputs, projection.width, inside)
        if progress:
            progress(1)
    score = matrix.score
    if told is not None:
        score = np.where(told[:, None], np.nan, score)
        folds = grouped_folds(groups, options.folds, options.seed + 1)
    judged = _judge(crossed.views, score, folds)
    estimator = _combined(crossed, matrix, inputs, (projection, landmarks), judged, options)
    views = dict(zip(ALL_VIEWS, crossed.views, strict=True))
    return Fitted(estimator, _held_out(crossed.views, score, folds), views, judged.methods)


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


def _hold_out(
    crossed: _CrossFit,
    member: Member,
    score: Float32[np.ndarray, "items models"],
    inputs: Float32[np.ndarray, "items projected"],
    width: int,
    inside: np.ndarray,
) -> None:
    crossed.members.append(member)
    crossed.views[:-1, ~inside] = member(inputs[~inside])
    memory = Neighbours.fit(inputs[inside, :width], score[inside], 0)
    nearby = memory.nearby(inputs[~inside, :width])
    crossed.views[-1, ~inside] = memory.logits(nearby)
    crossed.similarity[~inside, : nearby.similarity.shape[1]] = nearby.similarity


@dataclass(frozen=True, slots=True)
class _Judged:
    """What held-out predictions were worth."""

    stack: Stack
    calibration: Calibration
    methods: tuple[str, ...]


def _judge(
    views: Float32[np.ndarray, "views items models"],
    score: Float32[np.ndarray, "items models"],
    folds: Int64[np.ndarray, " items"],
) -> _Judged:
    stack = Stack.fit(views, score)
    return _Judged(stack, *fit_calibration(stack(views), score, folds))


def _held_out(
    views: Float32[np.ndarray, "views items models"],
    score: Float32[np.ndarray, "items models"],
    folds: Int64[np.ndarray, " items"],
) -> Float32[np.ndarray, "items models"]:
    """Return each fold's estimates by weights and curves that were fitted to the others.

    Those of the whole fit have seen every outcome: with a few hundred items they would flatter.
    """
    quality = np.zeros_like(score)
    for fold in np.unique(folds):
        held = folds == fold
        judged = _judge(views[:, ~held], score[~held], folds[~held])
        quality[held] = judged.calibration(judged.stack(views[:, held]))
    return quality


def _combined(
    crossed: _CrossFit,
    matrix: OutcomeMatrix,
    inputs: Float32[np.ndarray, "items projected"],
    scene: tuple[Projection, np.ndarray],
    judged: _Judged,
    options: FitOptions,
) -> Estimator:
    projection, landmarks = scene
    return Estimator(
        projection,
        landmarks,
        tuple(crossed.members),
        Neighbours.fit(inputs[:, : projection.width], matrix.score, options.seed),
        judged.stack,
        judged.calibration,
        TokenHead.fit(inputs, matrix.completion_tokens, options.ridge),
        Novelty.fit(crossed.similarity),
        Adopted.none(len(matrix.models)),
    )
