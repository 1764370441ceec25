"""Measures how good estimates of quality are: ranking (AUC), calibration (ECE), error (Brier).

All figures are of one model at a time, over the items that it answered and that were graded.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from routoo.evaluation.bootstrap import Interval, resample
from routoo.predictor.dataset import OutcomeMatrix
from routoo.statistics import share_interval

Quality = Float32[np.ndarray, "items models"]
"""Estimated quality of each model's answer to each item, in [0, 1]."""

ECE_BINS = 15
_HALF = 0.5
"""A higher score counts as right where only right and wrong are known."""
_NORMAL_95 = 1.959964
"""Normal quantile of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Answers with similar expected qualities."""

    expected: float
    """Mean expected quality."""
    actual: Interval
    """Mean score, with Wilson's 95 % interval (Wilson 1927)."""
    answers: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far one model's expected qualities agree with its scores."""

    model: str
    auc: float
    """Chance that a better-scored item was expected to score better; NaN where all scored alike."""
    ece: float
    """Expected calibration error."""
    brier: float
    """Mean squared error."""
    answers: int
    """Graded answers they are measured on."""
    bins: tuple[ReliabilityBin, ...]
    """By rising expected quality; empty bins are left out."""


def auc(score: Float32[np.ndarray, " items"], quality: Float32[np.ndarray, " items"]) -> float:
    """Return the chance that a better-scored item is estimated higher than a worse-scored one.

    Ties of the estimate count half. Soft scores are cut at one half. NaN where all items fall on
    one side: there is nothing to rank.
    """
    good = score > _HALF
    positives, negatives = int(good.sum()), int((~good).sum())
    if not positives or not negatives:
        return float("nan")
    _, level, count = np.unique(quality, return_inverse=True, return_counts=True)
    # Estimates that are alike share the mean of their ranks.
    rank = np.cumsum(count) - (count - 1) / 2
    ranks = rank[level][good].sum()
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
    bins = _bin_numbers(quality)
    gaps = np.bincount(bins, weights=score.astype(np.float64) - quality, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(score))


def metrics_by_model(
    score: Float32[np.ndarray, "items models"],
    quality: Quality,
    models: tuple[str, ...],
) -> dict[str, dict[str, float]]:
    """Return AUC, Brier score, ECE, mean score and number of outcomes of each model."""
    return {
        name: _metrics(score[:, column], quality[:, column]) for column, name in enumerate(models)
    }


def mean_metrics(by_model: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return each figure's mean over the models that have it; NaN where none has."""
    names = ("auc", "brier", "ece")
    rows = np.array([[row[name] for name in names] for row in by_model.values()], np.float64)
    known = ~np.isnan(rows)
    count = np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    means = np.where(known, rows, 0).sum(axis=0) / count
    return dict(zip(names, map(float, means), strict=True))


def calibration_report(
    matrix: OutcomeMatrix, quality: Quality, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, Interval]]:
    """Return AUC, Brier and ECE of each model, and their means over models with intervals.

    Drawing items with replacement raises ECE, so its interval is bias-corrected.
    """
    by_model = metrics_by_model(matrix.score, quality, matrix.models)
    draws = [
        mean_metrics(metrics_by_model(matrix.score[rows], quality[rows], matrix.models))
        for rows in resample(len(matrix.items), seed)
    ]
    intervals = {"ece": Interval.bias_corrected}
    return by_model, {
        name: intervals.get(name, Interval.of)(np.array([value, *(draw[name] for draw in draws)]))
        for name, value in mean_metrics(by_model).items()
    }


def reliability(
    model: str, quality: Float[np.ndarray, " items"], score: Float[np.ndarray, " items"]
) -> Reliability:
    """Compare one model's expected qualities with its scores, in the bins of ECE.

    Args:
        model: Its name.
        quality: Expected qualities.
        score: Scores; NaN where there is no graded answer.
    """
    known = ~np.isnan(score)
    expected, actual = quality[known].astype(np.float32), score[known].astype(np.float32)
    count = int(known.sum())
    if not count:
        return Reliability(model, np.nan, np.nan, np.nan, 0, ())
    numbers = _bin_numbers(expected)
    bins = [
        _bin(expected[numbers == number], actual[numbers == number])
        for number in np.unique(numbers)
    ]
    figures = (auc(actual, expected), ece(actual, expected), brier(actual, expected))
    return Reliability(model, *figures, count, tuple(bins))


def wilson(mean: float, count: int) -> Interval:
    """Return a share with Wilson's 95 % score interval, which holds for few answers too."""
    return Interval(mean, *share_interval(mean, count, _NORMAL_95))


def _bin(expected: np.ndarray, actual: np.ndarray) -> ReliabilityBin:
    mean = float(actual.mean(dtype=np.float64))
    count = len(actual)
    return ReliabilityBin(float(expected.mean(dtype=np.float64)), wilson(mean, count), count)


def _bin_numbers(quality: Float32[np.ndarray, " items"]) -> np.ndarray:
    return np.asarray(np.minimum((quality * ECE_BINS).astype(int), ECE_BINS - 1))


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
