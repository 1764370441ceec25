"""How much of the quality gap between a weak and a strong model a router recovers (APGR, CPT).

Source: Ong et al., RouteLLM: Learning to Route LLMs with Preference Data, arXiv 2406.18665 (2024),
section 3: PGR, APGR and CPT. Prompts go to the strong model in the order of the advantage that a
router expects of it, and the cost is the share of calls that the strong model gets.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from routoo.evaluation.bootstrap import Interval, Weights


@dataclass(frozen=True, slots=True)
class WeakStrongFigures:
    """APGR and CPT of a router between one weak and one strong model."""

    apgr: Interval
    """Mean share of the performance gap recovered, over all shares of strong calls; a router that
    ranks at random has one half."""
    cpt50: Interval
    """Least share of strong calls that recovers half of the gap."""
    cpt80: Interval
    """Least share of strong calls that recovers 80 % of it."""


def weak_strong_figures(
    advantage: Float[np.ndarray, " items"],
    weak: Float[np.ndarray, " items"],
    strong: Float[np.ndarray, " items"],
    weights: Weights,
) -> WeakStrongFigures:
    """Rank items by expected advantage and compute what each share of strong calls recovers.

    Args:
        advantage: Quality that the strong model is expected to add, on each item.
        weak: What the weak model's answers scored.
        strong: What the strong model's answers scored.
        weights: Of the items in each bootstrap draw.

    Returns:
        Figures with intervals; NaN in draws where the strong model is no better on the whole.
    """
    order = np.argsort(-advantage, kind="stable")
    gains = (strong.astype(np.float64) - weak)[order]
    draws = np.array([_figures(gains, row[order]) for row in weights])
    return WeakStrongFigures(*(Interval.of(column) for column in draws.T))


def _figures(
    gains: Float64[np.ndarray, " items"], weight: Float64[np.ndarray, " items"]
) -> tuple[float, float, float]:
    share = np.r_[0.0, np.cumsum(weight)]
    gained = np.r_[0.0, np.cumsum(weight * gains)]
    if gained[-1] <= 0:
        return (np.nan, np.nan, np.nan)
    recovered = gained / gained[-1]
    area = float(np.trapezoid(recovered, share))
    return (area, _first_at(recovered, share, 0.5), _first_at(recovered, share, 0.8))


def _first_at(
    recovered: Float64[np.ndarray, " calls"], share: Float64[np.ndarray, " calls"], goal: float
) -> float:
    """Return the least share of calls that reaches a goal, interpolated between two calls."""
    after = int(np.argmax(recovered >= goal))
    before = after - 1
    part = (goal - recovered[before]) / (recovered[after] - recovered[before])
    return float(share[before] + part * (share[after] - share[before]))
