"""Computes the figures of the paper's table, beside what the pool alone gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from figures import Figure
from paper_settings import Setting, Table

from routoo.evaluation.bootstrap import Interval, bootstrap_weights
from routoo.evaluation.cascade import CascadeKnowledge
from routoo.evaluation.cascade_report import judged_curve
from routoo.evaluation.pool_comparison import (
    PoolComparison,
    SingleModel,
    compare_pool,
    weak_strong_figures,
)
from routoo.evaluation.report.page import render_page
from routoo.evaluation.routing import (
    CompleteOutcomes,
    complete_outcomes,
    cost_matrix,
    latency_matrix,
)
from routoo.evaluation.scorecard import EvaluationData, build_scorecard
from routoo.predictor.dataset import outcome_matrix

ROUTER, JUDGED, MIX = "router", "judged", "random_mix"
LESS = 0.75
PAPER = {
    ("match", 0): 0.67,
    ("gain", 0): 0.053,
    ("match", 1): 0.5,
    ("gain_for_less", 1): 0.0,
}
"""The paper's claims: beside Mixtral-8x7B, then beside GPT-4 (the last one: above 0)."""
ROUTELLM_MMLU = {"apgr": 0.603, "cpt50": 0.354, "cpt80": 0.703}
"""RouteLLM's best router in each column on MMLU, quoted second-hand; not trained on MMLU items."""


@dataclass(frozen=True, slots=True)
class Measured(Figure):
    """A figure of the router; the reference is the random mix at equal cost."""

    low: float = float("nan")
    high: float = float("nan")
    best_single: float = float("nan")
    """The same figure of the best single model."""
    oracle: float = float("nan")
    published: float | None = None
    items: int = 0
    models: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One pool of one setting under one protocol, with the held-out items."""

    setting: Setting
    protocol: str
    pool: str
    models: tuple[str, ...]
    held: Table
    quality: np.ndarray
    """Expected quality, items x models."""

    @property
    def name(self) -> str:
        """Prefix of the figures' names."""
        return f"{self.setting.dataset}/{self.protocol}/{self.pool}".replace(" ", "_")

    def trial(self) -> tuple[np.ndarray, CompleteOutcomes]:
        """Return the items that all models answered, and what the answers scored and cost."""
        matrix = outcome_matrix(self.held.items, self.held.outcomes, self.models)
        position = {item.item_id: row for row, item in enumerate(self.held.items)}
        costs = cost_matrix(matrix, self.held.outcomes)
        rows, trial = complete_outcomes(matrix, costs, list(range(len(self.models))))
        return np.array([position[matrix.items[row].item_id] for row in rows]), trial


def measure(case: Case, seed: int, known: CascadeKnowledge | None = None) -> list[Measured]:
    """Return the figures beside each reference model that the pool has.

    Args:
        case: Its held-out items.
        seed: Of the bootstrap.
        known: What judging answers to them shows; None = nothing.
    """
    rows, trial = case.trial()
    estimates = {ROUTER: case.quality[rows].astype(np.float32)}
    further = {} if known is None else {JUDGED: judged_curve(known.take(rows), trial)}
    found = []
    for number, reference in enumerate(case.setting.references):
        if reference in case.models:
            pool = compare_pool(trial, case.models, estimates, seed, reference, further)
            for way in (ROUTER, *further):
                found += _beside(case, pool, number, way)
                if number == 0:
                    found.append(_gain(case, pool, way))
    return found + _pair(case, trial, estimates[ROUTER], seed)


def write_page(case: Case, folder: Path, seed: int, known: CascadeKnowledge | None) -> None:
    """Write the case's report as one HTML page."""
    matrix = outcome_matrix(case.held.items, case.held.outcomes, case.models)
    position = {item.item_id: row for row, item in enumerate(case.held.items)}
    rows = [position[item.item_id] for item in matrix.items]
    evidence = EvaluationData(
        matrix,
        cost_matrix(matrix, case.held.outcomes),
        latency_matrix(matrix, case.held.outcomes),
        {ROUTER: case.quality[rows].astype(np.float32)},
        judged=None if known is None else known.take(np.array(rows)),
    )
    facts = {"data set": case.setting.dataset, "pool": case.pool, "protocol": case.protocol}
    # The last reference that is there: GPT-4 where it is in the pool.
    reference = [name for name in case.setting.references if name in case.models][-1]
    card = build_scorecard("The paper's table", facts, evidence, seed, reference=reference)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{case.name.replace('/', '-')}.html"
    page.write_text(render_page(card), encoding="utf-8", errors="replace")


def _beside(case: Case, pool: PoolComparison, number: int, way: str) -> list[Measured]:
    own, mix, oracle = (pool.comparisons[name] for name in (way, MIX, "oracle"))
    single = next(one for one in pool.singles if one.name == pool.reference)
    units = (("match", "cost_ratio", "x"), ("gain", "gain", "quality"))
    rows = []
    for name, figure, unit in (*units, ("gain_for_less", "gain_for_less", "quality")):
        value: Interval = getattr(own, figure)
        beside: Interval = getattr(mix, figure)
        rows.append(
            Measured(
                f"{_prefix(case, way)}/{name}/{pool.reference}",
                value.value,
                unit,
                beside.value,
                value.value / beside.value if beside.value else None,
                low=value.low,
                high=value.high,
                best_single=_best_single(name, pool.singles, single),
                oracle=getattr(oracle, figure).value,
                published=PAPER.get((name, number)),
                items=pool.items,
                models=len(pool.singles),
            )
        )
    return rows


def _prefix(case: Case, way: str) -> str:
    return case.name if way == ROUTER else f"{case.name}/{way}"


def _gain(case: Case, pool: PoolComparison, way: str) -> Measured:
    own, oracle = pool.frontiers[way], pool.frontiers["oracle"]
    return Measured(
        f"{_prefix(case, way)}/mean_gain",
        own.gain.value,
        "quality",
        0.0,
        None,
        low=own.gain.low,
        high=own.gain.high,
        oracle=oracle.gain.value,
        items=pool.items,
        models=len(pool.singles),
    )


def _best_single(figure: str, singles: Sequence[SingleModel], reference: SingleModel) -> float:
    if figure == "match":
        good = [one.cost_usd for one in singles if one.quality.value >= reference.quality.value]
        return min(good) / reference.cost_usd
    share = 1.0 if figure == "gain" else LESS
    near = [one.quality.value for one in singles if one.cost_usd <= share * reference.cost_usd]
    return max(near) - reference.quality.value if near else float("nan")


def _pair(case: Case, trial: CompleteOutcomes, quality: np.ndarray, seed: int) -> list[Measured]:
    """Return APGR and CPT of Mixtral and GPT-4, in RouteLLM's settings alone."""
    if not case.setting.dataset.endswith(("mmlu", "gsm8k")):
        return []
    if not set(case.setting.references) <= set(case.models):
        return []
    weak, strong = (case.models.index(name) for name in case.setting.references)
    figures = weak_strong_figures(
        quality[:, strong] - quality[:, weak],
        trial.score[:, weak],
        trial.score[:, strong],
        bootstrap_weights(len(trial.score), seed),
    )
    published = ROUTELLM_MMLU if case.setting.dataset == "mmlu" else {}
    by_chance = {"apgr": 0.5, "cpt50": 0.5, "cpt80": 0.8}
    rows = []
    for name, chance in by_chance.items():
        value: Interval = getattr(figures, name)
        rows.append(
            Measured(
                f"{case.name}/{name}",
                value.value,
                "share",
                chance,
                value.value / chance,
                low=value.low,
                high=value.high,
                published=published.get(name),
                items=len(trial.score),
                models=2,
            )
        )
    return rows
