"""Computes learning curves: how good a predictor is with fewer outcomes; and plots them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from matplotlib.figure import Figure

from routoo.evaluation.quality_metrics import mean_metrics, metrics_by_model
from routoo.predictor.dataset import OutcomeMatrix, grouped_folds, text_groups
from routoo.predictor.estimator import Estimator
from routoo.predictor.fitting import FitOptions, training_items
from routoo.predictor.stacking import EnsembleMember
from routoo.predictor.views.neighbours import NeighbourView

PLOT_FORMATS = (".png", ".svg", ".pdf")
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Parts of the items that the curve's points are fitted on."""


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
    items = training_items(matrix, estimator.projection, features, options)
    held = folds == 0
    order = np.random.default_rng(options.seed).permutation(np.flatnonzero(~held))
    points = []
    for share in SHARES:
        part = items.take(np.sort(order[: max(int(share * len(order)), 1)]))
        views = [
            *EnsembleMember.fit(part).log_odds(items.features[held]),
            NeighbourView.fit(part).log_odds(items.features[held]),
        ]
        quality = estimator.calibration(estimator.stacking(np.stack(views)))
        points.append(CurvePoint(len(part.score), matrix.score[held], quality))
    return points


def plot_learning_curve(points: Sequence[CurvePoint], models: tuple[str, ...], path: Path) -> None:
    """Draw mean AUC and Brier score over the number of training items into an image file."""
    rows = [mean_metrics(metrics_by_model(point.score, point.quality, models)) for point in points]
    items = np.array([point.items for point in points])
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("auc", "brier"), strict=True):
        axes.plot(items, [row[name] for row in rows], marker="o")
        axes.set_xscale("log")
        axes.set_xlabel("training items")
        axes.set_ylabel(f"held-out {name}, mean over {len(models)} models")
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(path, dpi=120, metadata={"Software": None} if path.suffix == ".png" else None)
