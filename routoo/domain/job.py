"""Defines records of batches, jobs and shards: their states, and the limits of a job."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from routoo.domain.validators import Validators


@dataclass(frozen=True, slots=True)
class SLA:
    """Limits of one job; None means no limit."""

    min_quality: float | None = None
    """Least predicted quality, in [0, 1], of a model that may answer."""
    max_cost_usd: Decimal | None = None
    """Most that this job's calls may cost together, in USD."""
    max_latency_s: float | None = None
    """Longest wait for one call's answer, in seconds; a slower call is given up."""
    deadline: datetime | None = None
    """No call starts after this instant (with time zone)."""
    allowed_models: tuple[str, ...] | None = None
    """Names of the only candidate models that may answer."""
    denied_models: tuple[str, ...] | None = None
    """Names of candidate models that may not."""
    on_unavailable: str | None = None
    """What happens while the model takes no calls: wait or fallback; None as the batch wants."""
    validators: Validators | None = None
    """Rules for the answer, beside the schema of the request's `response_format`."""


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt of a batch, immutable once submitted."""

    job_no: int
    """Position in the input, from 0."""
    custom_id: str
    """The owner's key, unique in the batch."""
    body: dict[str, Any]
    """The chat-completion request; sent untouched but for its `model`."""
    sla: SLA = field(default_factory=SLA)


class BatchStatus(StrEnum):
    """States of a batch, named as in the OpenAI Batch API where it has them."""

    PLANNING = "planning"
    """Scored and selected like any other, but no call is made."""
    PLANNED = "planned"
    """Waits for its owner to submit the plan."""
    IN_PROGRESS = "in_progress"
    PAUSED = "paused"
    """No work starts; what is in flight ends, and is kept."""
    CANCELLING = "cancelling"
    """No call starts any more; those in flight are awaited."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Whether nothing happens to such a batch unless somebody asks for it."""
        return self not in {
            BatchStatus.PLANNING,
            BatchStatus.IN_PROGRESS,
            BatchStatus.PAUSED,
            BatchStatus.CANCELLING,
        }

    @property
    def has_ended(self) -> bool:
        """Whether such a batch was run to its end, or given up: a plan that waits was not."""
        return self.is_over and self is not BatchStatus.PLANNED


class ApiBatchState(StrEnum):
    """How far the submission of a batch that came through the gateway has come."""

    VALIDATING = "validating"
    """Its rows are still to be read and checked."""
    SUBMITTED = "submitted"
    """It is a batch like any other now."""
    FAILED = "failed"
    """Its rows can't be submitted."""
    CANCELLED = "cancelled"
    """It was cancelled before it was submitted."""


class ResultStatus(StrEnum):
    """How a job ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    BUDGET_EXHAUSTED = "budget_exhausted"
    CANCELLED = "cancelled"


class Stage(StrEnum):
    """The three stages of a batch, in order."""

    SCORE = "score"
    SELECT = "select"
    DISPATCH = "dispatch"


class ShardState(StrEnum):
    """States of a shard in one stage."""

    BLOCKED = "blocked"
    """The stage before is not done."""
    READY = "ready"
    """Waits for a worker."""
    LEASED = "leased"
    """A worker owns it until its lease expires."""
    DONE = "done"
    PARKED = "parked"
    """It failed for good and waits for a person."""


@dataclass(frozen=True, slots=True)
class ShardKey:
    """The key of a shard in one stage, which is all that a queue message carries."""

    batch_id: UUID
    stage: Stage
    shard_no: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to write one shard, fenced by the epoch."""

    key: ShardKey
    owner: str
    epoch: int
    first_job: int
    """First job_no of the slice."""
    job_count: int
    """Jobs in the slice."""
    attempts: int = 1
    """How often it was claimed, this time included, since it last made progress."""


@dataclass(frozen=True, slots=True)
class PendingJob:
    """A job that still needs an answer, with what was decided and spent on it so far."""

    job: Job
    model: str
    """The candidate model chosen by the latest assignment."""
    quality: tuple[float, ...]
    """Predicted quality of every candidate, in pool order."""
    completion_tokens: tuple[float, ...]
    """Predicted completion tokens of every candidate, in pool order."""
    attempts: int
    """Calls made so far, by any worker."""
    cost_usd: Decimal
    """What those calls cost."""
    planned_model: str = ""
    """The model that the batch's first plan chose; empty stands for `model`."""
    probe: bool = False
    """The chosen model's answer is judged before it is accepted."""
    serves: int = 1
    """Number of jobs that the answer serves: this one and its duplicates."""

    @property
    def planned(self) -> str:
        """Name of the model that the batch's first plan chose."""
        return self.planned_model or self.model
