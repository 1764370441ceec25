"""Computes bootstrap intervals: how far a figure would move on another sample of items.

Every interval is computed in the same way: draw the items with replacement, compute the figure of
each draw, and take the quantiles of these figures. A figure that is a weighted mean uses
`bootstrap_weights` (how often each draw holds each item); any other uses `resample` (the numbers of
the drawn items).

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

BOOTSTRAPS = 200
"""Draws of a report, which computes dozens of figures on each."""
MEAN_DRAWS = 1000
"""Draws of a mean: they are cheap, and the 99 % interval of an alert needs more than 200."""

Weights = Float64[np.ndarray, "draws items"]
"""How often each bootstrap draw holds each item, over the number of items; the first row is the
sample itself."""

Draws = Float[np.ndarray, " draws"]
"""A figure of each draw; the first is the sample's own."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap 95 % interval over items."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Draws) -> "Interval":
        """Return the first draw's figure with the middle 95 % of the others.

        Draws without such a figure (NaN) are left out; a figure that is out of reach is infinite.
        """
        return cls(float(draws[0]), *_middle(draws[1:], 0.95))

    @classmethod
    def bias_corrected(cls, draws: Draws) -> "Interval":
        """Return the same for a figure, 0 or more, whose value rises when items repeat.

        The interval is moved back by how far the draws lie above the sample on average, so that
        it says how far the figure would move on another sample of as many different items.

        Source: Efron and Tibshirani (1993), section 10.2 (the bootstrap's estimate of bias).
        """
        drawn = draws[1:][~np.isnan(draws[1:])]
        raised = drawn.mean() - draws[0] if len(drawn) else 0.0
        low, high = _middle(drawn - raised, 0.95)
        return cls(float(draws[0]), max(low, 0.0), high)


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """A mean with its interval."""

    mean: float
    low: float
    high: float
    items: int
    """Number of values that it is the mean of."""


def mean_interval(values: Float64[np.ndarray, " items"], *, level: float = 0.95) -> MeanInterval:
    """Return the mean of the known values with its interval.

    Args:
        values: One an item; NaN where not known.
        level: Chance that the interval holds the mean of the items' distribution.

    Returns:
        NaN where nothing is known.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return MeanInterval(float("nan"), float("nan"), float("nan"), 0)
    draws = [known[rows].mean() for rows in resample(len(known), 0, MEAN_DRAWS)]
    return MeanInterval(float(known.mean()), *_middle(np.array(draws), level), len(known))


def resample(
    count: int, seed: int, draws: int = BOOTSTRAPS
) -> Iterator[Int64[np.ndarray, " items"]]:
    """Yield item numbers drawn with replacement, once a draw."""
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        yield generator.integers(0, count, count)


def bootstrap_weights(count: int, seed: int) -> Weights:
    """Return the sample's own weights, then those of the draws of `resample`."""
    draws = [np.bincount(rows, minlength=count) / count for rows in resample(count, seed)]
    return np.stack([np.full(count, 1 / count), *draws])


def _middle(draws: Draws, level: float) -> tuple[float, float]:
    """Return the ends of the middle part of the known draws, NaN where none is known."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return float("nan"), float("nan")
    # Quantiles that are observed values: infinite ones can't be interpolated.
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(known, ends, method="inverted_cdf")
    return float(low), float(high)
