"""What was asked, foreseen and decided: one row a job, written once.

These tables have no foreign key to `batches`: COPY would check it once a row, and every row is
written under a lock on the batch or a lease of one of its shards.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, REAL, Boolean, CheckConstraint, Index, Integer, Text, UniqueConstraint
from sqlmodel import SQLModel

from routoo.store.tables.column import NAMES, REALS, TIMESTAMP, USD, batch_key, column


class JobRow(SQLModel, table=True):
    """One prompt of a batch, immutable."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("batch_id", "custom_id", name="jobs_custom_id"),
        CheckConstraint("job_no >= 0", name="jobs_job_no"),
        CheckConstraint("min_quality BETWEEN 0 AND 1", name="jobs_min_quality"),
        CheckConstraint("max_cost_usd >= 0", name="jobs_max_cost"),
        CheckConstraint("max_latency_s > 0", name="jobs_max_latency"),
        {"comment": "Input of a batch; a job's status is derived from results"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "Position in the input, from 0", primary_key=True)
    custom_id: str = column(Text(), "The owner's key, unique in the batch")
    # json, not jsonb: the text stays as it was sent, and needs no parse tree on the way in.
    body: dict[str, Any] = column(JSON(), "The chat-completion request")
    min_quality: float | None = column(
        REAL(), "Least predicted quality of a model that may answer, in [0, 1]", nullable=True
    )
    max_cost_usd: Decimal | None = column(
        USD, "Most that this job's calls may cost together, in USD", nullable=True
    )
    max_latency_s: float | None = column(REAL(), "Longest expected wait, in seconds", nullable=True)
    deadline: datetime | None = column(TIMESTAMP, "No call starts after this", nullable=True)
    allowed_models: list[str] | None = column(
        NAMES, "The only candidate models that may answer; null = all", nullable=True
    )
    denied_models: list[str] | None = column(
        NAMES, "Candidate models that may not answer", nullable=True
    )


class PredictionRow(SQLModel, table=True):
    """What the predictor said of a job, arrays in pool order."""

    __tablename__ = "predictions"
    __table_args__ = (
        CheckConstraint("0 <= ALL (quality) AND 1 >= ALL (quality)", name="predictions_quality"),
        CheckConstraint("0 <= ALL (quality_std)", name="predictions_quality_std"),
        CheckConstraint("0 <= ALL (completion_tokens)", name="predictions_completion_tokens"),
        CheckConstraint(
            "cardinality(quality) = cardinality(completion_tokens)"
            " AND cardinality(quality) = cardinality(quality_std)",
            name="predictions_arrays",
        ),
        {"comment": "Predictions, arrays in the order of the batch's pool"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    quality: list[float] = column(REALS, "Probability of an acceptable answer, in [0, 1]")
    quality_std: list[float] = column(REALS, "Standard deviation of that estimate")
    completion_tokens: list[float] = column(REALS, "Expected length of the answer, in tokens")
    novelty: float = column(REAL(), "Distance from the training prompts, 0 to 1")
    truncated: bool = column(Boolean(), "Scored on head and tail of a long prompt")


class FollowerRow(SQLModel, table=True):
    """A job that shares the answer of an identical one."""

    __tablename__ = "followers"
    __table_args__ = (
        CheckConstraint("leader_no < job_no", name="followers_leader"),
        # A leader's result is looked up here in the transaction that saves it.
        Index("followers_by_leader", "batch_id", "leader_no"),
        {"comment": "Jobs that are not called because an identical one of their batch is"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    leader_no: int = column(Integer(), "The job whose answer it shares")


class AssignmentRow(SQLModel, table=True):
    """The model chosen for a job; the highest revision counts."""

    __tablename__ = "assignments"
    __table_args__ = (
        CheckConstraint("expected_quality BETWEEN 0 AND 1", name="assignments_quality"),
        CheckConstraint("expected_cost_usd >= 0", name="assignments_cost"),
        {"comment": "Models chosen; the highest revision of a job counts"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    revision: int = column(Integer(), "From 1; plans are revised, not rewritten", primary_key=True)
    model: str = column(Text(), "Name of the candidate model")
    expected_quality: float = column(REAL(), "Predicted quality of its answer, in [0, 1]")
    expected_cost_usd: Decimal = column(USD, "Expected cost of the call, in USD")
