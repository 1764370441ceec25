"""Percentile bootstrap over items: how far a figure would move on another such sample.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64

BOOTSTRAPS = 200

Weights = Float64[np.ndarray, "draws items"]
"""How often each bootstrap draw holds each item, over the number of items; the first row is the
sample as it is."""

Draws = Float[np.ndarray, " draws"]
"""A figure of each draw, the sample's own first."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap 95 % interval over items."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: Draws) -> "Interval":
        """Return the first draw's figure with the middle 95 % of the others.

        Draws that have no such figure (NaN) are left out; one out of reach counts as infinite.
        """
        known = draws[1:][~np.isnan(draws[1:])]
        if not len(known):
            return cls(float(draws[0]), float("nan"), float("nan"))
        # Quantiles that are observed values: infinite ones can't be interpolated.
        low, high = np.quantile(known, [0.025, 0.975], method="inverted_cdf")
        return cls(float(draws[0]), float(low), float(high))


def resample(count: int, seed: int, draws: int = BOOTSTRAPS) -> list[Int64[np.ndarray, " items"]]:
    """Return item numbers drawn with replacement, once a draw."""
    generator = np.random.default_rng(seed)
    return [generator.integers(0, count, count) for _ in range(draws)]


def bootstrap_weights(count: int, seed: int) -> Weights:
    """Return the sample's own weights, then those of the draws of `resample`."""
    draws = [np.bincount(rows, minlength=count) / count for rows in resample(count, seed)]
    return np.stack([np.full(count, 1 / count), *draws])
