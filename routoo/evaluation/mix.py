"""The random mix of a pool: what money buys without looking at the prompts."""

import numpy as np
from jaxtyping import Float64

from routoo.statistics import Hull

BUDGETS = 25


def mix_quality(
    quality: Float64[np.ndarray, " models"],
    cost_usd: Float64[np.ndarray, " models"],
    budgets_usd: Float64[np.ndarray, " budgets"],
) -> Float64[np.ndarray, " budgets"]:
    """Return the best mean quality of a random mix of fixed models at each mean cost.

    The best mix needs at most two models: it lies on the upper convex hull of (cost, quality).

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
