"""Figures of a predictor on held-out items, with bootstrap intervals."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from routoo.evaluation.metrics import mean_metrics, metrics_by_model
from routoo.evaluation.routing import Routed, Trial, Weights, area, route
from routoo.predictor.dataset import OutcomeMatrix

BOOTSTRAPS = 200
Quality = Float32[np.ndarray, "items models"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its bootstrap 95 % interval over items."""

    value: float
    low: float
    high: float


def calibration_report(
    matrix: OutcomeMatrix, quality: Quality, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, Interval]]:
    """Return AUC, Brier and ECE of each model, and their means over models with intervals."""
    by_model = metrics_by_model(matrix.score, quality, matrix.models)
    draws = [
        mean_metrics(metrics_by_model(matrix.score[rows], quality[rows], matrix.models))
        for rows in _draws(len(matrix.items), seed)
    ]
    return by_model, {
        name: _interval(value, np.array([draw[name] for draw in draws]))
        for name, value in mean_metrics(by_model).items()
    }


def routing_report(
    trial: Trial, estimates: Mapping[str, Quality], seed: int
) -> dict[str, dict[str, Interval]]:
    """Route by each set of estimates, and by the outcomes themselves (the oracle).

    Returns:
        By name: mean gain over the random mix of equal cost, its least over the budgets, AIQ, and
        `headroom`, the gain's share of the oracle's.
    """
    count = len(trial.score)
    draws = [np.bincount(rows, minlength=count) / count for rows in _draws(count, seed)]
    # The first row is the sample as it is.
    weights = np.stack([np.full(count, 1 / count), *draws])
    routed = {name: route(trial, quality) for name, quality in estimates.items()}
    oracle = route(trial, trial.score.astype(np.float32))
    most = np.maximum(oracle.gain(trial, weights).mean(axis=1), 1e-9)
    return {
        name: _figures(trial, one, most, weights)
        for name, one in {**routed, "oracle": oracle}.items()
    }


def best_single(trial: Trial) -> tuple[int, float]:
    """Return the column and mean score of the model that scores best alone."""
    means = trial.score.mean(axis=0)
    return int(means.argmax()), float(means.max())


def _figures(
    trial: Trial, routed: Routed, most: Float64[np.ndarray, " draws"], weights: Weights
) -> dict[str, Interval]:
    gain = routed.gain(trial, weights)
    figures = {
        "gain": gain.mean(axis=1),
        "least_gain": gain.min(axis=1),
        "aiq": area(trial.budgets_usd, routed.quality(weights)),
        "headroom": gain.mean(axis=1) / most,
    }
    return {name: _interval(float(draws[0]), draws[1:]) for name, draws in figures.items()}


def _draws(count: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, count, count) for _ in range(BOOTSTRAPS)]


def _interval(value: float, draws: np.ndarray) -> Interval:
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))
