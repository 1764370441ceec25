"""How good quality estimates are: ranking, calibration, error. Per model, holes left out."""

import numpy as np
from jaxtyping import Float32
from scipy.stats import rankdata

ECE_BINS = 15


def auc(score: Float32[np.ndarray, " items"], quality: Float32[np.ndarray, " items"]) -> float:
    """Return the chance that a better-scored item is estimated higher than a worse-scored one.

    Ties of the estimate count half. Soft scores are cut at one half. NaN where all items fall on
    one side: there is nothing to rank.
    """
    good = score > 0.5  # noqa: PLR2004 - right more than wrong
    positives, negatives = int(good.sum()), int((~good).sum())
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(quality)[good].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def brier(score: Float32[np.ndarray, " items"], quality: Float32[np.ndarray, " items"]) -> float:
    """Return the mean squared error of the estimates (Brier 1950); NaN where there are none."""
    if not len(score):
        return float("nan")
    return float(np.mean((score - quality) ** 2, dtype=np.float64))


def ece(score: Float32[np.ndarray, " items"], quality: Float32[np.ndarray, " items"]) -> float:
    """Return the expected calibration error over 15 equal-width bins (Guo et al. 2017, eq. 3).

    NaN where there are no estimates.
    """
    if not len(score):
        return float("nan")
    bins = np.minimum((quality * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=score.astype(np.float64) - quality, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(score))


def metrics_by_model(
    score: Float32[np.ndarray, "items models"],
    quality: Float32[np.ndarray, "items models"],
    models: tuple[str, ...],
) -> dict[str, dict[str, float]]:
    """Return AUC, Brier score, ECE, mean score and number of outcomes of each model."""
    return {
        name: _metrics(score[:, column], quality[:, column]) for column, name in enumerate(models)
    }


def mean_metrics(by_model: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the plain mean over models; one without such a figure is left out, NaN if all are."""
    names = ("auc", "brier", "ece")
    rows = np.array([[row[name] for name in names] for row in by_model.values()], np.float64)
    known = ~np.isnan(rows)
    count = np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    means = np.where(known, rows, 0).sum(axis=0) / count
    return dict(zip(names, map(float, means), strict=True))


def _metrics(
    score: Float32[np.ndarray, " items"], quality: Float32[np.ndarray, " items"]
) -> dict[str, float]:
    known = ~np.isnan(score)
    score, quality = score[known], quality[known]
    return {
        "auc": auc(score, quality),
        "brier": brier(score, quality),
        "ece": ece(score, quality),
        "mean_score": float(score.mean(dtype=np.float64)) if len(score) else float("nan"),
        "outcomes": float(len(score)),
    }
