"""Builds the scorecard of an evaluation run, and compares its router with the pool."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float32, Float64

from routoo.domain.completion import AnswerDecision
from routoo.domain.items import Item
from routoo.errors import InputError
from routoo.evaluation.bootstrap import bootstrap_weights, mean_interval
from routoo.evaluation.evaluation_run import (
    NO_MODEL,
    EvaluationRun,
    chosen_cost,
    chosen_quality,
)
from routoo.evaluation.operating_point import (
    RoutedAnswers,
    compare_at_same_cost,
    operating_figures,
)
from routoo.evaluation.pool_comparison import PoolComparison, compare_pool
from routoo.evaluation.quality_metrics import reliability
from routoo.evaluation.routing import complete_outcomes, priced_columns
from routoo.evaluation.scorecard import (
    DecisionRow,
    EvaluationData,
    PastRun,
    Scorecard,
    measure_answers,
)
from routoo.predictor.dataset import OutcomeMatrix

ROUTER = "router"
_SEED = 0
"""Of the bootstrap."""


def run_scorecard(
    run: EvaluationRun,
    *,
    past: Sequence[EvaluationRun] = (),
    reference: str | None = None,
) -> Scorecard:
    """Return a run's figures.

    Without a sample that every model answered there is no comparison with the pool, and each
    model's expectations are compared with the answers that it was chosen for.

    Args:
        run: The run.
        past: Earlier runs of the same evaluation, oldest first.
        reference: Model to compare with; None for the best single one.

    Raises:
        InputError: The reference is no model of the pool that answered the sample.
    """
    every = list(range(len(run.models)))
    title = f"Evaluation of {run.facts.eval_set}"
    card = measure_answers(title, _facts(run), _data(run), _answers(run), every, _SEED)
    return replace(
        card,
        pool=_pool(run, reference),
        history=tuple(map(past_run, (*past, run))) if past else (),
        decisions=decision_rows(run),
        same_cost=compare_at_same_cost(run),
    )


def decision_rows(run: EvaluationRun) -> tuple[DecisionRow, ...]:
    """Return figures of the answers by how they came about; none where none was judged."""
    answered = max(int(run.answered.sum()), 1)
    rows = []
    for decision in AnswerDecision:
        those = run.decided(decision)
        count = int(those.sum())
        quality, cost = run.quality[those].astype(np.float64), run.cost_usd[those]
        figures = mean_interval(quality), mean_interval(cost)
        rows.append(DecisionRow(str(decision), count, count / answered, *figures))
    return tuple(rows) if sum(row.answers for row in rows[1:]) else ()


def past_run(run: EvaluationRun) -> PastRun:
    """Return the figures of a run that the report draws over time."""
    answers = _answers(run)
    figures = operating_figures(answers, bootstrap_weights(len(run.item_ids), _SEED))
    judged = reliability("", answers.expected_quality, answers.score)
    label = f"{run.facts.created_at:%Y-%m-%d %H:%M}"
    return PastRun(label, figures.quality, figures.cost_usd, judged.ece)


def _facts(run: EvaluationRun) -> dict[str, str]:
    facts = run.facts
    return {
        "run": facts.name,
        "at": f"{facts.created_at:%Y-%m-%d %H:%M %Z}",
        "items": f"{len(run.item_ids):,}",
        "asked": "recorded answers" if facts.recorded else "live models",
        "sample of all models": f"{len(run.sampled):,}" if len(run.sampled) else "",
        "schedule": facts.schedule or "",
        "aim": facts.goal,
        "planned at the same cost": _planned(run),
        "budget": "" if facts.budget_usd is None else f"{facts.budget_usd} USD",
        "items' sha256": facts.content_sha256[:12],
        "checkpoint": (facts.checkpoint_sha256 or "")[:12],
    }


def _planned(run: EvaluationRun) -> str:
    """Say what the plan expected of other ways to spend its money."""
    single, direct = run.planned.get("best_single"), run.planned.get("direct")
    parts = []
    if single:
        parts.append(f"{single['expected_quality']:.3f} by {single['model']} alone, the best one")
    if direct:
        parts.append(f"{direct['expected_quality']:.3f} without judging answers")
    if parts and run.planned.get("expected_quality") is not None:
        parts.insert(0, f"{run.planned['expected_quality']:.3f} as routed")
    return "; ".join(parts)


def _answers(run: EvaluationRun) -> RoutedAnswers:
    at = np.arange(len(run.item_ids))
    # An item that nobody answered was still planned for a model: that was expected of it.
    planned = np.where(run.chosen == NO_MODEL, 0.0, run.predicted_quality[at, run.chosen])
    expected = np.where(run.answered, chosen_quality(run), planned)
    return RoutedAnswers(
        run.models,
        run.answered_by,
        expected,
        np.nan_to_num(chosen_cost(run)),
        run.quality,
        run.cost_usd,
        run.latency_s,
        run.domains,
    )


def _data(run: EvaluationRun) -> EvaluationData:
    """Return each model's outcomes: those of the sample, and of routed jobs elsewhere."""
    nothing = np.full(run.predicted_quality.shape, np.nan)
    rows = np.flatnonzero(run.answered)
    score, cost, latency = (
        _filled(nothing, sample, rows, run.answered_by[rows], own[rows])
        for sample, own in (
            (run.sample_quality, run.quality),
            (run.sample_cost_usd, run.cost_usd),
            (run.sample_latency_s, run.latency_s),
        )
    )
    matrix = _matrix(run, score.astype(np.float32), np.arange(len(run.item_ids)))
    return EvaluationData(
        matrix,
        cost,
        latency.astype(np.float32),
        {ROUTER: _expected_of_outcomes(run)},
        run.expected_cost_usd,
    )


def _expected_of_outcomes(run: EvaluationRun) -> Float32[np.ndarray, "items models"]:
    """Return what was expected of each outcome: of routed answers what judging them had shown."""
    expected = run.predicted_quality.copy()
    rows = np.flatnonzero(run.answered)
    columns = run.answered_by[rows]
    routed = np.isnan(run.sample_quality[rows, columns])
    expected[rows[routed], columns[routed]] = chosen_quality(run)[rows[routed]]
    return expected


def _filled(
    nothing: Float64[np.ndarray, "items models"],
    sample: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    own: np.ndarray,
) -> Float64[np.ndarray, "items models"]:
    known = nothing.copy()
    known[rows, columns] = own
    return np.where(np.isnan(sample), known, sample)


def _matrix(
    run: EvaluationRun, score: Float32[np.ndarray, "items models"], rows: np.ndarray
) -> OutcomeMatrix:
    items = tuple(
        Item(run.item_ids[row], run.prompts[row], subject=run.domains[row] or None) for row in rows
    )
    return OutcomeMatrix(items, run.models, score, np.full(score.shape, np.nan, np.float32))


def _pool(run: EvaluationRun, reference: str | None) -> PoolComparison | None:
    rows = run.sampled
    matrix = _matrix(run, run.sample_quality[rows], rows)
    costs = run.sample_cost_usd[rows]
    columns = priced_columns(costs)
    try:
        kept, outcomes = complete_outcomes(matrix, costs, columns, run.expected_cost_usd[rows])
    except InputError:
        return None
    names = tuple(run.models[column] for column in columns)
    quality = run.predicted_quality[rows][kept][:, columns]
    return compare_pool(outcomes, names, {ROUTER: quality}, _SEED, reference)
