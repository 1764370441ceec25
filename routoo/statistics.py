"""Cost-quality curves: what random mixing of points that are known can buy."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

_Point = tuple[float, float]
_ROUNDING = 1 + 1e-9
"""The same mean, summed in another order, is not out of reach."""


@dataclass(frozen=True, slots=True)
class Hull:
    """The non-decreasing upper convex hull of points of mean cost and mean quality.

    Every point on it can be had: by sending a random share of the prompts each way.
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


def _slope(cheap: _Point, dear: _Point) -> float:
    return (dear[1] - cheap[1]) / max(dear[0] - cheap[0], 1e-300)
