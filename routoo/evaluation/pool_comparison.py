"""Figures of a predictor on held-out items, with bootstrap intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from routoo.evaluation.bootstrap import Interval, Weights, bootstrap_weights, resample
from routoo.evaluation.quality_metrics import mean_metrics, metrics_by_model
from routoo.evaluation.reference import Comparison, compare
from routoo.evaluation.routing import Spread, Trial, matched_round_robin, route
from routoo.predictor.dataset import OutcomeMatrix
from routoo.statistics import Hull

Quality = Float32[np.ndarray, "items models"]

ROUND_ROBIN = "round_robin"
"""The first router's shares of the models, dealt out blindly."""
ORACLE = "oracle"
"""Routes by the outcomes themselves: no router does better on these items."""
RANDOM_MIX = "random_mix"
"""The best mix of single models at each cost."""
_INTERVALS = {"ece": Interval.around}


@dataclass(frozen=True, slots=True)
class Frontier:
    """A way to route at every budget, beside the random mix of the same cost."""

    gain: Interval
    """Quality above the mix, mean over the budgets."""
    least_gain: Interval
    """The same at its least over the budgets."""
    aiq: Interval
    """Mean height of the cost-quality hull between the cheapest and the dearest model's cost."""
    headroom: Interval
    """The mean gain's share of the oracle's."""
    cost_usd: Float64[np.ndarray, " budgets"]
    """Mean cost of a call at each budget, in USD."""
    quality: Float64[np.ndarray, " budgets"]
    low: Float64[np.ndarray, " budgets"]
    """Lower end of the quality's interval."""
    high: Float64[np.ndarray, " budgets"]


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """Routers on one trial."""

    frontiers: dict[str, Frontier]
    """By name; the estimates' own, then ROUND_ROBIN and ORACLE."""
    comparisons: dict[str, Comparison]
    """The same beside the reference model, and RANDOM_MIX."""
    reference: int
    """Column of the reference model."""
    cost_range_usd: tuple[float, float]
    """Mean costs of the cheapest and the dearest model: AIQ's range, in USD."""


def calibration_report(
    matrix: OutcomeMatrix, quality: Quality, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, Interval]]:
    """Return AUC, Brier and ECE of each model, and their means over models with intervals."""
    by_model = metrics_by_model(matrix.score, quality, matrix.models)
    draws = [
        mean_metrics(metrics_by_model(matrix.score[rows], quality[rows], matrix.models))
        for rows in resample(len(matrix.items), seed)
    ]
    return by_model, {
        name: _INTERVALS.get(name, Interval.of)(np.array([value, *(draw[name] for draw in draws)]))
        for name, value in mean_metrics(by_model).items()
    }


def routing_report(
    trial: Trial, estimates: Mapping[str, Quality], seed: int, reference: int | None = None
) -> RoutingReport:
    """Route by each set of estimates, beside the round-robin of the first one's shares and oracle.

    Args:
        trial: The items.
        estimates: Quality by name of router; the one that matters first.
        seed: Of the bootstrap.
        reference: Column of the model to compare with; None for the best single model.
    """
    weights = bootstrap_weights(len(trial.score), seed)
    routed = {name: route(trial, one) for name, one in estimates.items()}
    blind = matched_round_robin(trial, next(iter(routed.values())))
    known = route(trial, trial.score.astype(np.float32))
    spreads: dict[str, Spread] = {**routed, ROUND_ROBIN: blind, ORACLE: known}
    mixes = trial.mixes(weights)
    hulls = {name: spread.hulls(weights) for name, spread in spreads.items()}
    most = np.maximum(known.gain(mixes, weights).mean(axis=1), 1e-9)
    column = best_single(trial)[0] if reference is None else reference
    costs = trial.cost_usd.mean(axis=0)
    return RoutingReport(
        {name: _frontier(trial, one, mixes, most, weights) for name, one in spreads.items()},
        {
            name: compare(trial, curves, hulls[ORACLE], column, weights)
            for name, curves in {**hulls, RANDOM_MIX: mixes}.items()
        },
        column,
        (float(costs.min()), float(costs.max())),
    )


def best_single(trial: Trial) -> tuple[int, float]:
    """Return the column and mean score of the model that scores best alone."""
    means = trial.score.mean(axis=0)
    return int(means.argmax()), float(means.max())


def _frontier(
    trial: Trial,
    spread: Spread,
    mixes: list[Hull],
    most: Float64[np.ndarray, " draws"],
    weights: Weights,
) -> Frontier:
    gain, quality = spread.gain(mixes, weights), spread.quality(weights)
    costs = weights @ trial.cost_usd
    ranges = zip(spread.hulls(weights), costs.min(axis=1), costs.max(axis=1), strict=True)
    areas = np.array([hull.aiq(float(low), float(high)) for hull, low, high in ranges])
    low, high = np.quantile(quality[1:], [0.025, 0.975], axis=0)
    return Frontier(
        gain=Interval.of(gain.mean(axis=1)),
        least_gain=Interval.of(gain.min(axis=1)),
        aiq=Interval.of(areas),
        headroom=Interval.of(gain.mean(axis=1) / most),
        cost_usd=spread.spent_usd(weights)[0],
        quality=quality[0],
        low=low,
        high=high,
    )
