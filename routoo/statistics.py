"""Computes what several rooms need: cost-quality hulls, random mixes, intervals of shares."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from jaxtyping import Float, Float64

_Point = tuple[float, float]
_ROUNDING = 1 + 1e-9
"""The same mean, summed in another order, is not out of reach."""
BUDGETS = 25
"""Mean costs at which curves are compared."""


@dataclass(frozen=True, slots=True)
class Hull:
    """The non-decreasing upper convex hull of points of mean cost and mean quality.

    Every point on it can be reached by sending a random share of the prompts each way.
    """

    cost_usd: Float64[np.ndarray, " corners"]
    """Mean cost of a call, in USD, rising."""
    quality: Float64[np.ndarray, " corners"]
    """Mean quality, rising."""

    @classmethod
    def over(
        cls, cost_usd: Float[np.ndarray, " points"], quality: Float[np.ndarray, " points"]
    ) -> "Hull":
        """Return the hull of at least one point."""
        hull: list[_Point] = []
        for cost, value in sorted(zip(cost_usd.tolist(), (-quality).tolist(), strict=True)):
            point = (cost, -value)
            if hull and point[1] <= hull[-1][1]:
                continue
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], point):
                hull.pop()
            hull.append(point)
        corners = np.array(hull, np.float64)
        return cls(corners[:, 0], corners[:, 1])

    def quality_at(self, cost_usd: Float[np.ndarray, " costs"]) -> Float64[np.ndarray, " costs"]:
        """Return the quality at each mean cost; one below the first point's counts as that."""
        return np.asarray(np.interp(cost_usd, self.cost_usd, self.quality))

    def cost_at(self, quality: float) -> float:
        """Return the least mean cost that reaches a quality, in USD; infinite out of reach."""
        if quality > self.quality[-1] * _ROUNDING:
            return float("inf")
        return float(np.interp(quality, self.quality, self.cost_usd))

    def aiq(self, low_usd: float, high_usd: float) -> float:
        """Return AIQ, the mean height of the curve over a range of mean cost.

        Left of the first point the curve goes down straight to the null router, which answers
        nothing for nothing; right of the last it is flat.

        Source: Hu et al., RouterBench, arXiv 2403.12031 (2024), section 3.

        Args:
            low_usd: Where the range starts, in USD.
            high_usd: Where it ends; the height at the start where the range is empty.
        """
        costs, values = np.r_[0.0, self.cost_usd], np.r_[0.0, self.quality]
        if high_usd <= low_usd:
            return float(np.interp(low_usd, costs, values))
        inside = costs[(costs > low_usd) & (costs < high_usd)]
        at = np.r_[low_usd, inside, high_usd]
        return float(np.trapezoid(np.interp(at, costs, values), at) / (high_usd - low_usd))


def mix_quality(
    quality: Float64[np.ndarray, " models"],
    cost_usd: Float64[np.ndarray, " models"],
    budgets_usd: Float64[np.ndarray, " budgets"],
) -> Float64[np.ndarray, " budgets"]:
    """Return the best mean quality of a random mix of fixed models at each mean cost.

    A random mix sends a share of the prompts to each model without looking at them. The best one
    needs at most two models: it lies on the upper convex hull of (cost, quality).

    Args:
        quality: Mean score of each model.
        cost_usd: Mean cost of each model's calls, in USD.
        budgets_usd: Mean costs allowed, in USD; one below the cheapest model's counts as it.
    """
    return Hull.over(cost_usd, quality).quality_at(budgets_usd)


def log_budgets(cost_usd: Float64[np.ndarray, " models"]) -> Float64[np.ndarray, " budgets"]:
    """Return mean costs per call, evenly spaced in their logarithm from cheapest to dearest.

    A free model's cost has no logarithm: with one in the pool they are evenly spaced from 0.
    """
    low, high = float(cost_usd.min()), float(cost_usd.max())
    return np.linspace(0, high, BUDGETS) if low <= 0 else np.geomspace(low, high, BUDGETS)


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
    spread = deviations**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = deviations / (1 + spread) * sqrt(share * (1 - share) / count + spread / (4 * count))
    # At a share of 0 or 1 rounding may leave the share itself outside by a hair.
    return max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share))


def _slope(cheap: _Point, dear: _Point) -> float:
    return (dear[1] - cheap[1]) / max(dear[0] - cheap[0], 1e-300)
