"""Learning curves: what more outcomes would bring."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, text_groups
from routoo.predictor.estimator import Estimator
from routoo.predictor.fitting import FitOptions
from routoo.predictor.member import Member
from routoo.predictor.views.domain import number_domains
from routoo.predictor.views.neighbours import Neighbours

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A fit on part of the items, asked about the ones left out."""

    items: int
    """Items it was fitted on."""
    score: Float32[np.ndarray, "held models"]
    quality: Float32[np.ndarray, "held models"]


def learning_curve(
    matrix: OutcomeMatrix,
    features: Float32[np.ndarray, "items features"],
    estimator: Estimator,
    options: FitOptions,
) -> list[CurvePoint]:
    """Fit the views on growing parts of all folds but one, and predict that one.

    The projection, the views' weights and the calibration are those of the whole fit: few numbers,
    and the same for every point, so that the curve shows the views alone.
    """
    folds = grouped_folds(text_groups(matrix.prompts), options.folds, options.seed)
    inputs = estimator.projection.apply(features)
    domains = number_domains([item.subject or item.dataset for item in matrix.items])
    held = folds == 0
    order = np.random.default_rng(options.seed).permutation(np.flatnonzero(~held))
    points = []
    for share in SHARES:
        rows = np.sort(order[: max(int(share * len(order)), 1)])
        member = Member.fit(
            inputs[rows],
            matrix.score[rows],
            domains[rows],
            estimator.landmarks,
            options.ridge,
            options.class_weight,
        )
        width = estimator.projection.width
        memory = Neighbours.fit(inputs[rows, :width], matrix.score[rows], options.seed)
        around = memory.logits(memory.nearby(inputs[held, :width]))[None]
        logits = estimator.stack(np.concatenate([member(inputs[held]), around]))
        points.append(CurvePoint(len(rows), matrix.score[held], estimator.calibration(logits)))
    return points
