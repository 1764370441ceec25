"""Compares routers with the models of a pool: at every budget, with one model, between two."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from routoo.errors import InputError
from routoo.evaluation.bootstrap import Interval, Weights, bootstrap_weights
from routoo.evaluation.quality_metrics import Quality
from routoo.evaluation.routing import (
    ChosenCurve,
    CompleteOutcomes,
    RoutingCurve,
    matched_round_robin,
    route,
)
from routoo.statistics import Hull

ROUND_ROBIN = "round_robin"
"""The first router's shares of the models, given to the items at random."""
ORACLE = "oracle"
"""Routes by the outcomes themselves: no router does better on these items."""
RANDOM_MIX = "random_mix"
"""The best mix of single models at each cost."""
LESS = 0.75
"""Share of the reference's cost at which the quality is asked for too."""
_NO_HEADROOM = 1e-9
_ROUNDING = 1 + 1e-6


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


@dataclass(frozen=True, slots=True)
class Frontier:
    """Quality of one router at every budget, and its gain over the random mix of the same cost."""

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
class ReferenceComparison:
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


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """Every router on the same complete outcomes."""

    frontiers: dict[str, Frontier]
    """By name; the estimates' own, then ROUND_ROBIN and ORACLE."""
    comparisons: dict[str, ReferenceComparison]
    """By name, beside the reference model; also RANDOM_MIX."""
    reference: int
    """Column of the reference model."""
    cost_range_usd: tuple[float, float]
    """Mean costs of the cheapest and the dearest model: AIQ's range, in USD."""
    routed: ChosenCurve
    """The first router's choices."""


@dataclass(frozen=True, slots=True)
class SingleModel:
    """One model of the pool on the items that every model answered."""

    name: str
    cost_usd: float
    """Mean cost of an answer, in USD."""
    quality: Interval


@dataclass(frozen=True, slots=True)
class BudgetComparison:
    """The first router under one budget, beside the best single model that costs no more."""

    cost_usd: float
    """Mean cost of a call as it was routed, in USD."""
    quality: Interval
    best_single: str | None
    """None where no model is as cheap."""
    best_single_quality: float
    over_single: Interval
    """Routed quality less that model's."""


@dataclass(frozen=True, slots=True)
class PoolComparison:
    """Routers beside the pool's models, on items that every model answered."""

    items: int
    singles: tuple[SingleModel, ...]
    reference: str
    """Model that the comparisons name."""
    weak: str
    strong: str
    """The pair of APGR and CPT."""
    cost_range_usd: tuple[float, float]
    """Range of mean cost that AIQ covers, in USD."""
    frontiers: dict[str, Frontier]
    comparisons: dict[str, ReferenceComparison]
    pairs: dict[str, WeakStrongFigures]
    budgets: tuple[BudgetComparison, ...]
    """From the cheapest to the dearest."""


def compare_pool(
    outcomes: CompleteOutcomes,
    models: tuple[str, ...],
    estimates: Mapping[str, Quality],
    seed: int,
    reference: str | None = None,
    further: Mapping[str, RoutingCurve] | None = None,
) -> PoolComparison:
    """Route by each set of estimates and compare the routers with the pool's models.

    The pair of APGR and CPT is the cheapest model and the best single one.

    Args:
        outcomes: What every model scored and cost on the items.
        models: Names of the columns.
        estimates: Quality by name of router; the one that matters first.
        seed: Of the bootstrap.
        reference: Model to compare with; None for the best single one.
        further: Curves of what else was decided about the items, by name.

    Raises:
        InputError: The reference is not in the pool.
    """
    column = None if reference is None else _column(models, reference)
    report = routing_report(outcomes, estimates, seed, column, further)
    weights = bootstrap_weights(len(outcomes.score), seed)
    weak, strong = int(outcomes.cost_usd.mean(axis=0).argmin()), best_single(outcomes)[0]
    return PoolComparison(
        len(outcomes.score),
        _singles(outcomes, models, weights),
        models[report.reference],
        models[weak],
        models[strong],
        report.cost_range_usd,
        report.frontiers,
        report.comparisons,
        _pairs(outcomes, estimates, weak, strong, weights) if weak != strong else {},
        tuple(_beside_singles(outcomes, models, report.routed, weights)),
    )


def _beside_singles(
    outcomes: CompleteOutcomes, models: tuple[str, ...], routed: ChosenCurve, weights: Weights
) -> Iterator[BudgetComparison]:
    """Yield the router's quality at each budget, beside the best single model of its cost."""
    costs, means = outcomes.cost_usd.mean(axis=0), outcomes.score.mean(axis=0)
    scores = weights @ outcomes.score
    drawn, nothing = routed.quality(weights), Interval.of(np.full(len(weights), np.nan))
    for at, cost_usd in enumerate(routed.cost_usd.mean(axis=1).tolist()):
        cheap = costs <= cost_usd * _ROUNDING
        best = int(np.where(cheap, means, -np.inf).argmax())
        quality = Interval.of(drawn[:, at])
        if not cheap.any():
            yield BudgetComparison(cost_usd, quality, None, float("nan"), nothing)
            continue
        over = Interval.of(drawn[:, at] - scores[:, best])
        yield BudgetComparison(cost_usd, quality, models[best], float(means[best]), over)


def _column(models: tuple[str, ...], reference: str) -> int:
    if reference not in models:
        raise InputError(
            "the reference model is not among those with scores and costs",
            value=reference,
            remedy=f"Name one of {', '.join(models[:50])}",
        )
    return models.index(reference)


def _pairs(
    outcomes: CompleteOutcomes,
    estimates: Mapping[str, Quality],
    weak: int,
    strong: int,
    weights: Weights,
) -> dict[str, WeakStrongFigures]:
    """Return what each router and the oracle make of one weak and one strong model."""
    known = {**estimates, ORACLE: outcomes.score.astype(np.float32)}
    return {
        name: weak_strong_figures(
            quality[:, strong] - quality[:, weak],
            outcomes.score[:, weak],
            outcomes.score[:, strong],
            weights,
        )
        for name, quality in known.items()
    }


def routing_report(
    outcomes: CompleteOutcomes,
    estimates: Mapping[str, Quality],
    seed: int,
    reference: int | None = None,
    further: Mapping[str, RoutingCurve] | None = None,
) -> RoutingReport:
    """Route by each set of estimates, beside the round-robin of the first one's shares and oracle.

    Args:
        outcomes: What every model scored and cost on the items.
        estimates: Quality by name of router; the one that matters first.
        seed: Of the bootstrap.
        reference: Column of the model to compare with; None for the best single model.
        further: Curves of what else was decided about the items, by name.
    """
    weights = bootstrap_weights(len(outcomes.score), seed)
    routed = {name: route(outcomes, one) for name, one in estimates.items()}
    blind = matched_round_robin(outcomes, next(iter(routed.values())))
    known = route(outcomes, outcomes.score.astype(np.float32))
    curves: dict[str, RoutingCurve] = {
        **routed,
        **(further or {}),
        ROUND_ROBIN: blind,
        ORACLE: known,
    }
    mixes = outcomes.mixes(weights)
    hulls = {name: curve.hulls(weights) for name, curve in curves.items()}
    most = np.maximum(known.gain(mixes, weights).mean(axis=1), 1e-9)
    column = best_single(outcomes)[0] if reference is None else reference
    costs = outcomes.cost_usd.mean(axis=0)
    return RoutingReport(
        {name: _frontier(outcomes, one, mixes, most, weights) for name, one in curves.items()},
        {
            name: compare_with_reference(outcomes, own, hulls[ORACLE], column, weights)
            for name, own in {**hulls, RANDOM_MIX: mixes}.items()
        },
        column,
        (float(costs.min()), float(costs.max())),
        next(iter(routed.values())),
    )


def best_single(outcomes: CompleteOutcomes) -> tuple[int, float]:
    """Return the column and mean score of the model that scores best alone."""
    means = outcomes.score.mean(axis=0)
    return int(means.argmax()), float(means.max())


def compare_with_reference(
    outcomes: CompleteOutcomes,
    hulls: Sequence[Hull],
    oracle: Sequence[Hull],
    reference: int,
    weights: Weights,
) -> ReferenceComparison:
    """Compare a cost-quality curve with one model, draw by draw.

    Args:
        outcomes: The items.
        hulls: The curve in each draw.
        oracle: The oracle's curve in each draw.
        reference: Column of the reference model.
        weights: Of the items in each draw.
    """
    cost = weights @ outcomes.cost_usd[:, reference]
    quality = weights @ outcomes.score[:, reference]
    gain, less = _heights(hulls, cost) - quality, _heights(hulls, LESS * cost) - quality
    most = _heights(oracle, cost) - quality
    needed = np.array([hull.cost_at(value) for hull, value in zip(hulls, quality, strict=True)])
    ratio = needed / np.maximum(cost, 1e-12)
    headroom = gain / np.where(most > _NO_HEADROOM, most, np.nan)
    return ReferenceComparison(*(Interval.of(draws) for draws in (ratio, gain, less, headroom)))


def _singles(
    outcomes: CompleteOutcomes, models: tuple[str, ...], weights: Weights
) -> tuple[SingleModel, ...]:
    """Return what each model alone costs and scores."""
    costs, qualities = outcomes.cost_usd.mean(axis=0), (weights @ outcomes.score).T
    return tuple(
        SingleModel(name, float(cost), Interval.of(quality))
        for name, cost, quality in zip(models, costs, qualities, strict=True)
    )


def _frontier(
    outcomes: CompleteOutcomes,
    curve: RoutingCurve,
    mixes: list[Hull],
    most: Float64[np.ndarray, " draws"],
    weights: Weights,
) -> Frontier:
    gain, quality = curve.gain(mixes, weights), curve.quality(weights)
    costs = weights @ outcomes.cost_usd
    ranges = zip(curve.hulls(weights), costs.min(axis=1), costs.max(axis=1), strict=True)
    areas = np.array([hull.aiq(float(low), float(high)) for hull, low, high in ranges])
    low, high = np.quantile(quality[1:], [0.025, 0.975], axis=0)
    return Frontier(
        gain=Interval.of(gain.mean(axis=1)),
        least_gain=Interval.of(gain.min(axis=1)),
        aiq=Interval.of(areas),
        headroom=Interval.of(gain.mean(axis=1) / most),
        cost_usd=curve.spent_usd(weights)[0],
        quality=quality[0],
        low=low,
        high=high,
    )


def _heights(hulls: Sequence[Hull], cost_usd: np.ndarray) -> np.ndarray:
    """Return each curve's height at a cost; NaN where nothing on it is as cheap."""
    heights = np.array(
        [hull.quality_at(np.array([cost]))[0] for hull, cost in zip(hulls, cost_usd, strict=True)]
    )
    cheapest = np.array([hull.cost_usd[0] for hull in hulls])
    return np.where(cost_usd * _ROUNDING < cheapest, np.nan, heights)
