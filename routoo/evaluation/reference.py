"""A router beside one named model: what the same quality costs, what the same money brings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from routoo.evaluation.bootstrap import Interval, Weights
from routoo.evaluation.routing import Trial
from routoo.statistics import Hull

LESS = 0.75
"""Share of the reference's cost at which the quality is asked for too."""
_NO_HEADROOM = 1e-9
_ROUNDING = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class Comparison:
    """A cost-quality curve beside a reference model that answers everything."""

    cost_ratio: Interval
    """Least cost of the reference's quality, over the reference's cost; infinite out of reach."""
    gain: Interval
    """Quality at the reference's cost, less the reference's."""
    gain_for_less: Interval
    """Quality at 0.75 of the reference's cost, less the reference's; NaN where nothing is as
    cheap."""
    headroom: Interval
    """The gain's share of the oracle's at that cost; NaN where the oracle gains nothing."""


def compare(
    trial: Trial, hulls: Sequence[Hull], oracle: Sequence[Hull], reference: int, weights: Weights
) -> Comparison:
    """Compare a curve with a model, draw by draw.

    Args:
        trial: The items.
        hulls: The curve in each draw.
        oracle: The oracle's curve in each draw.
        reference: Column of the reference model.
        weights: Of the items in each draw.
    """
    cost, quality = weights @ trial.cost_usd[:, reference], weights @ trial.score[:, reference]
    gain, less = _at(hulls, cost) - quality, _at(hulls, LESS * cost) - quality
    most = _at(oracle, cost) - quality
    needed = np.array([hull.cost_at(value) for hull, value in zip(hulls, quality, strict=True)])
    ratio = needed / np.maximum(cost, 1e-12)
    headroom = gain / np.where(most > _NO_HEADROOM, most, np.nan)
    return Comparison(*(Interval.of(draws) for draws in (ratio, gain, less, headroom)))


def _at(hulls: Sequence[Hull], cost_usd: np.ndarray) -> np.ndarray:
    """Return each curve's height at a cost; NaN where nothing on it is as cheap."""
    heights = np.array(
        [hull.quality_at(np.array([cost]))[0] for hull, cost in zip(hulls, cost_usd, strict=True)]
    )
    cheapest = np.array([hull.cost_usd[0] for hull in hulls])
    return np.where(cost_usd * _ROUNDING < cheapest, np.nan, heights)
