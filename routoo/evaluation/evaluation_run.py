"""An evaluation run as arrays: what was foreseen, chosen, answered, and how good it was.

Metrics, reports and the comparison with earlier runs read this record and nothing of the store.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

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
    """What a run is, beside its figures."""

    run_id: UUID
    name: str
    """What its batch is called."""
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

    @property
    def answered(self) -> Bool[np.ndarray, " items"]:
        """Items that a model answered."""
        return np.asarray(self.answered_by != NO_MODEL)

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
