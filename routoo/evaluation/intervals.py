"""Means with bootstrap intervals over items, and shares with score intervals."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float64

DRAWS = 1000
_BLOCK = 50
"""Draws held in memory at once."""


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean and where it may lie."""

    mean: float
    low: float
    high: float
    items: int
    """Values it is the mean of."""


def mean_interval(
    values: Float64[np.ndarray, " items"], *, level: float = 0.95, seed: int = 0
) -> MeanInterval:
    """Return the mean of the known values with its percentile bootstrap interval.

    Args:
        values: One an item; NaN where not known.
        level: Chance that the interval holds the mean of the items' distribution.
        seed: Of the draws.

    Returns:
        NaN where nothing is known. Source: Efron and Tibshirani 1993, chapter 13.
    """
    known = values[~np.isnan(values)]
    count = len(known)
    if not count:
        return MeanInterval(float("nan"), float("nan"), float("nan"), 0)
    generator = np.random.default_rng(seed)
    means = [
        known[generator.integers(0, count, (_BLOCK, count))].mean(axis=1)
        for _ in range(DRAWS // _BLOCK)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return MeanInterval(float(known.mean()), float(low), float(high), count)


def share_interval(share: float, count: int, deviations: float) -> tuple[float, float]:
    """Return Wilson's score interval of a share, which holds for few observations too.

    Args:
        share: The observed share, in [0, 1].
        count: Observations, at least 1.
        deviations: Normal quantile of the interval: 1.96 for 95 %.

    Returns:
        Its ends, within [0, 1] and around the share. Source: Wilson, Probable inference, the law of
        succession, and statistical inference, JASA 22 (1927).
    """
    doubt = deviations**2 / count
    middle = (share + doubt / 2) / (1 + doubt)
    half = deviations / (1 + doubt) * sqrt(share * (1 - share) / count + doubt / (4 * count))
    # At a share of 0 or 1 rounding may leave the share itself outside by a hair.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))
