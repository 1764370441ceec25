"""Compares probing and deciding with routing by the prompt alone, budget by budget."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from routoo.evaluation.bootstrap import Interval, bootstrap_weights
from routoo.evaluation.cascade import CascadeDecisions, CascadeKnowledge, ProbeKnowledge, decide_all
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
    escalated: float
    """Share of the items for which a second model is asked."""
    precision: float
    """Mean score of the judged answers that are accepted; NaN without any."""
    recall: float
    """Share of the good judged answers that are accepted; NaN without any."""
    best_model: str
    """Best single model of at most that cost."""
    best_model_quality: float


@dataclass(frozen=True, slots=True)
class JudgementFigures:
    """How good estimates of a model's answers are, before and after looking at them."""

    probe: str
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
    """Decide by both policies at 25 budgets, and compare what came of it.

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
    curves = [_curve(known, score, decisions) for decisions in (plain, judged)]
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
        Interval.of(gains[1]),
        Interval.of(gains[1] - gains[0]),
        points,
        tuple(_judgements(known, probe, score, models) for probe in known.probes),
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
    own = score[np.arange(len(score)), decided.first]
    probed, accepted = decided.probed, decided.accepted
    means = np.where(known.cost_usd <= budget_usd * (1 + 1e-9), score.mean(axis=0), -1.0)
    best = int(means.argmax())
    return CascadePoint(
        budget_usd,
        float(decided.cost_usd(known.cost_usd).mean()),
        Interval.of(qualities[0]),
        Interval.of(qualities[1]),
        Interval.of(qualities[1] - qualities[0]),
        float(probed.mean()),
        float((~accepted).mean()),
        _share(own, probed & accepted),
        _recall(own, probed, accepted),
        models[best],
        float(means[best]),
    )


def _share(score: Float64[np.ndarray, " items"], rows: Bool[np.ndarray, " items"]) -> float:
    return float(score[rows].mean()) if rows.any() else float("nan")


def _recall(
    score: Float64[np.ndarray, " items"],
    probed: Bool[np.ndarray, " items"],
    accepted: Bool[np.ndarray, " items"],
) -> float:
    good = float(score[probed].sum())
    return float(score[probed & accepted].sum()) / good if good else float("nan")


def _judgements(
    known: CascadeKnowledge,
    probe: ProbeKnowledge,
    score: Float64[np.ndarray, "items models"],
    models: tuple[str, ...],
) -> JudgementFigures:
    rows = probe.answered
    came = score[rows, probe.column].astype(np.float32)
    before = known.quality[rows, probe.column].astype(np.float32)
    after = probe.judged[rows, probe.column]
    return JudgementFigures(
        models[probe.column],
        int(rows.sum()),
        auc(came, before),
        auc(came, after),
        brier(came, before),
        brier(came, after),
        ece(came, before),
        ece(came, after),
    )
