"""What happened: money set aside, calls made, how jobs ended, and grades."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, REAL, Boolean, CheckConstraint, Index, Integer, Text
from sqlmodel import SQLModel

from routoo.domain.completion import ResultSource
from routoo.domain.job import ResultStatus
from routoo.store.tables.column import USD, batch_key, column, created_at, one_of

ATTEMPT_STATUSES = ("succeeded", "failed", "lost")


class ReservationRow(SQLModel, table=True):
    """Money set aside for a call before it is sent; an attempt row settles it."""

    __tablename__ = "reservations"
    __table_args__ = (
        CheckConstraint("worst_case_usd >= 0", name="reservations_worst_case"),
        {"comment": "Worst case of every call, written before it is sent"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    attempt_no: int = column(Integer(), "Call of the job, from 1", primary_key=True)
    shard_no: int = column(Integer(), "Dispatch shard that reserved it")
    model: str = column(Text(), "Name of the candidate model")
    worst_case_usd: Decimal = column(USD, "Most the call can cost, in USD")
    created_at: datetime = created_at()


class AttemptRow(SQLModel, table=True):
    """One call that was made for a job."""

    __tablename__ = "attempts"
    __table_args__ = (
        one_of("status", ATTEMPT_STATUSES, "attempts_status"),
        CheckConstraint("cost_usd >= 0", name="attempts_cost"),
        Index("attempts_by_model", "model", "created_at"),  # the last calls to a model
        {"comment": "Every call made; a lost one counts at its worst case"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    attempt_no: int = column(Integer(), "Call of the job, from 1", primary_key=True)
    model: str = column(Text(), "Name of the candidate model")
    status: str = column(Text(), "succeeded, failed, or lost in a crash")
    http_status: int | None = column(Integer(), "HTTP status of the answer", nullable=True)
    prompt_tokens: int | None = column(Integer(), "Prompt tokens billed", nullable=True)
    completion_tokens: int | None = column(Integer(), "Completion tokens billed", nullable=True)
    usage_estimated: bool = column(
        Boolean(), "The answer carried no usage: counts are an upper bound", default="false"
    )
    cost_usd: Decimal = column(USD, "Tokens times the pool's tariff, in USD")
    latency_s: float | None = column(REAL(), "From request to whole answer", nullable=True)
    error_code: str | None = column(Text(), "Kind of failure", nullable=True)
    error_message: str | None = column(Text(), "What the endpoint said", nullable=True)
    created_at: datetime = created_at()


class ResultRow(SQLModel, table=True):
    """How a job ended: exactly one row a job."""

    __tablename__ = "results"
    __table_args__ = (
        one_of("status", ResultStatus, "results_status"),
        CheckConstraint("cost_usd >= 0 AND attempts >= 0", name="results_counts"),
        CheckConstraint(
            "status <> 'succeeded' OR (model IS NOT NULL AND answer IS NOT NULL)",
            name="results_answer",
        ),
        one_of("source", ResultSource, "results_source"),
        {"comment": "How each job ended: exactly one row a job"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    status: str = column(Text(), "succeeded, failed, expired, budget_exhausted or cancelled")
    model: str | None = column(Text(), "Candidate model that answered", nullable=True)
    answer: str | None = column(Text(), "Text of its first choice", nullable=True)
    response: dict[str, Any] | None = column(JSON(), "The whole response", nullable=True)
    prompt_tokens: int | None = column(Integer(), "Of the call that answered", nullable=True)
    completion_tokens: int | None = column(Integer(), "Of the call that answered", nullable=True)
    cost_usd: Decimal = column(USD, "Of all calls of the job, in USD")
    latency_s: float | None = column(REAL(), "Of the call that answered, in seconds", nullable=True)
    attempts: int = column(Integer(), "Calls made for the job")
    error_code: str | None = column(Text(), "Kind of failure", nullable=True)
    error_message: str | None = column(Text(), "What went wrong, and what to do", nullable=True)
    created_at: datetime = created_at()
    source: str = column(
        Text(), "call, duplicate (shares another job's answer) or cache", default="'call'"
    )


class GradeRow(SQLModel, table=True):
    """What a grader made of a job's answer."""

    __tablename__ = "grades"
    __table_args__ = (
        CheckConstraint("score BETWEEN 0 AND 1", name="grades_score"),
        {"comment": "Grades of answers against references"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    score: float | None = column(
        REAL(), "1 = right, in [0, 1]; null where the answer is ambiguous", nullable=True
    )
    grader: str = column(Text(), "Name of the grader")
    detail: str | None = column(Text(), "What it compared", nullable=True)
    created_at: datetime = created_at()
