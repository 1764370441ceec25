"""Plots of a fit, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from routoo.evaluation.quality_metrics import mean_metrics, metrics_by_model
from routoo.training.learning_curve import CurvePoint

PLOT_FORMATS = (".png", ".svg", ".pdf")


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
