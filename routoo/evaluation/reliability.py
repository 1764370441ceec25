"""Reliability diagrams: of the answers expected to be right so often, how many were."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from routoo.evaluation.bootstrap import Interval
from routoo.evaluation.quality_metrics import ECE_BINS, auc, brier, ece
from routoo.statistics import share_interval

_Z = 1.959964
"""Normal quantile of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers with similar expectations."""

    expected: float
    """Mean expected quality."""
    actual: Interval
    """Mean score, with Wilson's 95 % interval (Wilson 1927)."""
    answers: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far one model's expected qualities can be trusted."""

    model: str
    auc: float
    """Chance that a better-scored item was expected to score better; NaN where all scored alike."""
    ece: float
    """Expected calibration error."""
    brier: float
    """Mean squared error."""
    answers: int
    """Graded answers they are measured on."""
    bins: tuple[Bin, ...]
    """By rising expectation; empty bins are left out."""


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
    numbers = np.minimum((expected * ECE_BINS).astype(int), ECE_BINS - 1)
    bins = [
        _bin(expected[numbers == number], actual[numbers == number])
        for number in np.unique(numbers)
    ]
    figures = (auc(actual, expected), ece(actual, expected), brier(actual, expected))
    return Reliability(model, *figures, count, tuple(bins))


def wilson(mean: float, count: int) -> Interval:
    """Return a share with Wilson's 95 % score interval, which holds for few answers too."""
    return Interval(mean, *share_interval(mean, count, _Z))


def _bin(expected: np.ndarray, actual: np.ndarray) -> Bin:
    mean = float(actual.mean(dtype=np.float64))
    return Bin(float(expected.mean(dtype=np.float64)), wilson(mean, len(actual)), len(actual))
