"""Compares probing and deciding with routing by the prompt alone, budget by budget."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

from routoo.evaluation.bootstrap import Interval, bootstrap_weights
from routoo.evaluation.cascade import (
    CascadeDecisions,
    CascadeKnowledge,
    PairKnowledge,
    ProbeKnowledge,
    decide_all,
)
from routoo.evaluation.quality_metrics import auc, brier, ece
from routoo.evaluation.routing import CompleteOutcomes, RoutingCurve


@dataclass(frozen=True, slots=True)
class CascadePoint:
    """Both policies under one budget, every call at its model's mean cost."""

    budget_usd: float
    """Mean budget an item."""
    cost_usd: float
    """Mean cost of an item with probes."""
    prompt: Interval
    """Quality by the prompt alone."""
    cascade: Interval
    """Quality where answers are judged."""
    difference: Interval
    probed: float
    """Share of the items whose first answer is judged."""
    compared: float
    """Share of the items for which a second answer is compared with the first."""
    escalated: float
    """Share of the items for which another model is asked after all judged ones."""
    precision: float
    """Mean score of the judged answers that are results; NaN without any."""
    recall: float
    """Share of the good judged first answers in whose place no other model is asked; NaN without
    any."""
    best_model: str
    """Best single model of at most that cost."""
    best_model_quality: float


@dataclass(frozen=True, slots=True)
class JudgementFigures:
    """How good estimates of a model's answers are, before and after looking at them."""

    probe: str
    second: str | None
    """The model whose answers they are compared with; `before` is then with the first alone."""
    answers: int
    auc_before: float
    auc_after: float
    brier_before: float
    brier_after: float
    ece_before: float
    ece_after: float


@dataclass(frozen=True, slots=True)
class CascadeReport:
    """Routing by the prompt alone beside probing and deciding."""

    items: int
    models: tuple[str, ...]
    probes: tuple[str, ...]
    prompt_gain: Interval
    """Mean over the budgets of quality above the random mix of the same cost."""
    single_gain: Interval
    """The same where at most one answer of an item is judged."""
    cascade_gain: Interval
    gain_difference: Interval
    points: tuple[CascadePoint, ...]
    judgements: tuple[JudgementFigures, ...]


def compare_policies(
    known: CascadeKnowledge,
    score: Float64[np.ndarray, "items models"],
    models: tuple[str, ...],
    seed: int,
) -> CascadeReport:
    """Decide by both policies at 25 budgets, and compare their quality and cost.

    Args:
        known: What decisions may use; items that all models answered.
        score: What each model's answer scored.
        models: Names of the columns.
        seed: Of the bootstrap.
    """
    costs = np.broadcast_to(known.cost_usd, score.shape)
    outcomes = CompleteOutcomes(score, costs, costs)
    weights = bootstrap_weights(len(score), seed)
    budgets, mixes = outcomes.budgets_usd, outcomes.mixes(weights)
    plain = decide_all(known.without_answers(), budgets)
    judged = decide_all(known, budgets)
    single = decide_all(known.without_pairs(), budgets) if known.pairs else judged
    curves = [_curve(known, score, decisions) for decisions in (plain, judged, single)]
    gains = [curve.gain(mixes, weights).mean(axis=1) for curve in curves]
    qualities = [curve.quality(weights) for curve in curves]
    points = tuple(
        _point(known, score, models, float(budget), decided, [q[:, at] for q in qualities])
        for at, (budget, decided) in enumerate(zip(budgets, judged, strict=True))
    )
    return CascadeReport(
        len(score),
        models,
        tuple(models[probe.column] for probe in known.probes),
        Interval.of(gains[0]),
        Interval.of(gains[2]),
        Interval.of(gains[1]),
        Interval.of(gains[1] - gains[0]),
        points,
        (
            *(_judgements(known, probe, score, models) for probe in known.probes),
            *(_pair_judgements(known, pair, score, models) for pair in known.pairs),
        ),
    )


def judged_curve(known: CascadeKnowledge, outcomes: CompleteOutcomes) -> RoutingCurve:
    """Return what probing and deciding scores and really costs at each budget of a pool."""
    rows, costs = np.arange(len(outcomes.score)), outcomes.cost_usd
    decided = decide_all(known, outcomes.budgets_usd)
    return RoutingCurve(
        np.stack([outcomes.score[rows, one.final] for one in decided]),
        np.stack([one.cost_usd(costs) for one in decided]),
    )


def _curve(
    known: CascadeKnowledge,
    score: Float64[np.ndarray, "items models"],
    decisions: list[CascadeDecisions],
) -> RoutingCurve:
    rows = np.arange(len(score))
    return RoutingCurve(
        np.stack([score[rows, decided.final] for decided in decisions]),
        np.stack([decided.cost_usd(known.cost_usd) for decided in decisions]),
    )


def _point(
    known: CascadeKnowledge,
    score: Float64[np.ndarray, "items models"],
    models: tuple[str, ...],
    budget_usd: float,
    decided: CascadeDecisions,
    qualities: list[Float64[np.ndarray, " draws"]],
) -> CascadePoint:
    rows, probed = np.arange(len(score)), decided.probed
    kept = probed & ~decided.escalated
    means = np.where(known.cost_usd <= budget_usd * (1 + 1e-9), score.mean(axis=0), -1.0)
    best = int(means.argmax())
    return CascadePoint(
        budget_usd,
        float(decided.cost_usd(known.cost_usd).mean()),
        Interval.of(qualities[0]),
        Interval.of(qualities[1]),
        Interval.of(qualities[1] - qualities[0]),
        float(probed.mean()),
        float((decided.second >= 0).mean()),
        float(decided.escalated.mean()),
        _share(score[rows, decided.final], kept),
        _recall(score[rows, decided.first], probed, kept),
        models[best],
        float(means[best]),
    )


def _share(score: Float64[np.ndarray, " items"], rows: Bool[np.ndarray, " items"]) -> float:
    return float(score[rows].mean()) if rows.any() else float("nan")


def _recall(
    score: Float64[np.ndarray, " items"],
    probed: Bool[np.ndarray, " items"],
    kept: Bool[np.ndarray, " items"],
) -> float:
    good = float(score[probed].sum())
    return float(score[kept].sum()) / good if good else float("nan")


def _judgements(
    known: CascadeKnowledge,
    probe: ProbeKnowledge,
    score: Float64[np.ndarray, "items models"],
    models: tuple[str, ...],
) -> JudgementFigures:
    before = known.quality[:, probe.column]
    return _figures(models[probe.column], None, score, probe.column, before, probe)


def _pair_judgements(
    known: CascadeKnowledge,
    pair: PairKnowledge,
    score: Float64[np.ndarray, "items models"],
    models: tuple[str, ...],
) -> JudgementFigures:
    probe = known.probes[pair.probe]
    before = probe.judged[:, probe.column]
    return _figures(models[probe.column], models[pair.column], score, probe.column, before, pair)


def _figures(
    probe: str,
    second: str | None,
    score: Float64[np.ndarray, "items models"],
    column: int,
    estimate: Float32[np.ndarray, " items"],
    judged: ProbeKnowledge | PairKnowledge,
) -> JudgementFigures:
    rows = judged.answered
    came = score[rows, column].astype(np.float32)
    before, after = estimate[rows].astype(np.float32), judged.judged[rows, column]
    return JudgementFigures(
        probe,
        second,
        int(rows.sum()),
        auc(came, before),
        auc(came, after),
        brier(came, before),
        brier(came, after),
        ece(came, before),
        ece(came, after),
    )
