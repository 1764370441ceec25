"""Holds an evaluation run as arrays: predictions, choices, answers, and their grades.

Metrics, reports and the comparison with earlier runs read this record and never the store.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from routoo.domain.completion import AnswerDecision
from routoo.evaluation.bootstrap import mean_interval

NO_MODEL = -1
"""Stands for a model's position where there is none."""


class RunMode(StrEnum):
    """Who answers the items of a run."""

    ROUTED = "routed"
    """The models that the router chooses."""
    FULL = "full"
    """Those, and every candidate model on a stated sample of the items."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What identifies a run and how it was set up."""

    run_id: UUID
    name: str
    """Name of its batch."""
    batch_id: UUID
    """The routed jobs."""
    sample_batch_id: UUID | None
    """The jobs that every candidate answers; None where the run has no sample."""
    eval_set: str
    content_sha256: str
    """Version of the evaluation set."""
    mode: RunMode
    recorded: bool
    """Whether the answers were replayed from recorded outcomes."""
    schedule: str | None
    """Name of the schedule that fired it, None for a run by hand."""
    checkpoint_sha256: str | None
    """Weights of the promoted predictor when the run began, None where none was promoted."""
    budget_usd: Decimal | None
    """Most that the routed jobs may cost together."""
    goal: str
    """What the routed jobs aim at within that, in words."""
    created_at: datetime
    finished_at: datetime | None
    """When the last answer was graded, None before."""


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """A run, items in the order of the evaluation set and models in the order of the pool."""

    facts: RunFacts
    models: tuple[str, ...]
    item_ids: tuple[str, ...]
    prompts: tuple[str, ...]
    domains: tuple[str, ...]
    """Subject of each item, else its dataset, else an empty text."""

    predicted_quality: Float32[np.ndarray, "items models"]
    """In [0, 1]."""
    expected_cost_usd: Float64[np.ndarray, "items models"]
    """Of one call, before it is made."""
    novelty: Float32[np.ndarray, " items"]
    """Distance from the training prompts, 0 to 1."""
    chosen: Int64[np.ndarray, " items"]
    """Model of the last plan; NO_MODEL where the item was refused."""

    answered_by: Int64[np.ndarray, " items"]
    """Model that answered; NO_MODEL where the item ended without an answer."""
    answer_sha256: tuple[str | None, ...]
    """Hash of each answer's text, None where there is none."""
    quality: Float32[np.ndarray, " items"]
    """What the grader gave; 0 without an answer, NaN where the answer is ambiguous."""
    cost_usd: Float64[np.ndarray, " items"]
    """Of all calls of the job, failed ones too."""
    latency_s: Float32[np.ndarray, " items"]
    """Of the call that answered; NaN without an answer."""

    sample_quality: Float32[np.ndarray, "items models"]
    """What each model's own answer was given; NaN outside the sample and where ambiguous."""
    sample_cost_usd: Float64[np.ndarray, "items models"]
    """NaN outside the sample."""
    sample_latency_s: Float32[np.ndarray, "items models"]
    """NaN outside the sample."""
    decisions: tuple[str | None, ...] = ()
    """How each answer came about (`AnswerDecision`), None without an answer; empty = all direct."""
    judged_quality: Float32[np.ndarray, " items"] | None = None
    """Chance that the answer is good by what was judged; NaN where nothing was; None = nowhere."""
    planned_cost_usd: Float64[np.ndarray, " items"] | None = None
    """Expected by the last plan of all calls of an item; None = of one call to the chosen model."""
    planned: Mapping[str, Any] = field(default_factory=dict)
    """What the batch's plan expected, as it keeps it."""

    @property
    def answered(self) -> Bool[np.ndarray, " items"]:
        """Items that a model answered."""
        return np.asarray(self.answered_by != NO_MODEL)

    def decided(self, decision: AnswerDecision) -> Bool[np.ndarray, " items"]:
        """Return the items whose answers came about in this way."""
        found = self.decisions or (None,) * len(self.item_ids)
        return np.array([one == decision for one in found], np.bool_)

    @property
    def graded(self) -> Bool[np.ndarray, " items"]:
        """Items whose outcome is known: a clear answer, or none at all."""
        return np.asarray(~np.isnan(self.quality))

    @property
    def ungraded(self) -> int:
        """Answers that can be read in more than one way, or have no reference."""
        return int(np.isnan(self.quality).sum())

    @property
    def sampled(self) -> Int64[np.ndarray, " sampled"]:
        """Positions of the items that every candidate was asked."""
        return np.flatnonzero(~np.isnan(self.sample_cost_usd).all(axis=1))


def chosen_quality(run: EvaluationRun) -> Float64[np.ndarray, " items"]:
    """Return the quality that was expected of each item's answer; NaN where no model answered.

    Of a judged answer it is what was known when it was taken, of others the prediction.
    """
    rows = np.flatnonzero(run.answered)
    expected = np.full(len(run.item_ids), np.nan)
    expected[rows] = run.predicted_quality[rows, run.answered_by[rows]]
    if run.judged_quality is None:
        return expected
    return np.where(run.answered & ~np.isnan(run.judged_quality), run.judged_quality, expected)


def chosen_cost(run: EvaluationRun) -> Float64[np.ndarray, " items"]:
    """Return the expected cost of each item's planned calls; NaN where the plan refused it."""
    rows = np.flatnonzero(run.chosen != NO_MODEL)
    expected = np.full(len(run.item_ids), np.nan)
    expected[rows] = run.expected_cost_usd[rows, run.chosen[rows]]
    if run.planned_cost_usd is not None:
        expected[rows] = run.planned_cost_usd[rows]
    return expected


def run_figures(run: EvaluationRun) -> dict[str, Any]:
    """Return quality, cost and calibration of a graded run as JSON, with 95 % intervals.

    Keys: `items`, `answered`, `graded`, `ungraded`, `sampled`, `cost_usd` (total of the routed
    jobs), `sample_cost_usd`, and with `mean`, `low`, `high`, `items`: `quality` (an item without an
    answer counts 0), `expected_quality` and `overconfidence` (expected less actual, over graded
    answers), `cost_per_item_usd`, `expected_cost_per_item_usd`, `novelty`; and `models`: share of
    the answers and, over the sample, the quality of each. `planned` has what the plan expected:
    `quality`, and at the same cost `unjudged_quality` (no answer judged) and `best_single`. Where
    answers were judged, `cascade`: `accepted`, `escalated`, `kept`, `escalation_share`, and the
    quality of the answers that were accepted (`acceptance_precision`) and of those after an
    escalation (`escalated_quality`).
    """
    quality = run.quality.astype(np.float64)
    expected = chosen_quality(run)
    figures = {
        "quality": quality,
        "expected_quality": expected,
        "overconfidence": expected - quality,
        "cost_per_item_usd": run.cost_usd,
        "expected_cost_per_item_usd": chosen_cost(run),
        "novelty": run.novelty.astype(np.float64),
    }
    return {
        "items": len(run.item_ids),
        "answered": int(run.answered.sum()),
        "graded": int(run.graded.sum()),
        "ungraded": run.ungraded,
        "sampled": len(run.sampled),
        "cost_usd": float(run.cost_usd.sum()),
        "sample_cost_usd": float(np.nansum(run.sample_cost_usd)),
        **{name: _mean(values) for name, values in figures.items()},
        "models": [_model_figures(run, column) for column in range(len(run.models))],
        "planned": _planned_figures(run.planned),
        **_cascade_figures(run),
    }


def _planned_figures(plan: Mapping[str, Any]) -> dict[str, Any]:
    direct, single = plan.get("direct") or {}, plan.get("best_single") or {}
    return {
        "quality": plan.get("expected_quality"),
        "unjudged_quality": direct.get("expected_quality"),
        "best_single": single.get("model"),
        "best_single_quality": single.get("expected_quality"),
    }


def _cascade_figures(run: EvaluationRun) -> dict[str, Any]:
    accepted, escalated = map(run.decided, (AnswerDecision.ACCEPTED, AnswerDecision.ESCALATED))
    kept = run.decided(AnswerDecision.KEPT)
    judged = int(accepted.sum() + escalated.sum() + kept.sum())
    if judged == 0:
        return {}
    quality = run.quality.astype(np.float64)
    return {
        "cascade": {
            "accepted": int(accepted.sum()),
            "escalated": int(escalated.sum()),
            "kept": int(kept.sum()),
            "escalation_share": int(escalated.sum()) / judged,
            "acceptance_precision": _mean(quality[accepted]),
            "escalated_quality": _mean(quality[escalated]),
        }
    }


def _model_figures(run: EvaluationRun, column: int) -> dict[str, Any]:
    alone = run.sample_quality[:, column].astype(np.float64)
    return {
        "model": run.models[column],
        "answers": int((run.answered_by == column).sum()),
        "sample_quality": _mean(alone),
    }


def _mean(values: Float64[np.ndarray, " items"]) -> dict[str, float | None]:
    """Return a mean with its interval, None for NaN, which JSON does not have."""
    found = asdict(mean_interval(values))
    return {name: None if np.isnan(value) else value for name, value in found.items()}
