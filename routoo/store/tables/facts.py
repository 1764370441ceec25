"""Facts of jobs, written once: input, predictions, choices, calls, results and grades.

These tables have no foreign key to `batches`: COPY would check it once a row, and every row is
written under a lock on the batch or a lease of one of its shards.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    REAL,
    Boolean,
    CheckConstraint,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    text,
)
from sqlmodel import SQLModel

from routoo.domain.batch_options import OnUnavailable
from routoo.domain.completion import AnswerDecision, DeviationReason, ResultSource
from routoo.domain.job import ResultStatus
from routoo.store.tables.column import (
    NAMES,
    REALS,
    RESPONSE_COMMENT,
    TIMESTAMP,
    USD,
    batch_key,
    column,
    created_at,
    one_of,
)


class JobRow(SQLModel, table=True):
    """One prompt of a batch, immutable."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("batch_id", "custom_id", name="jobs_custom_id"),
        CheckConstraint("job_no >= 0", name="jobs_job_no"),
        CheckConstraint("min_quality BETWEEN 0 AND 1", name="jobs_min_quality"),
        CheckConstraint("max_cost_usd >= 0", name="jobs_max_cost"),
        CheckConstraint("max_latency_s > 0", name="jobs_max_latency"),
        one_of("on_unavailable", OnUnavailable, "jobs_on_unavailable"),
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
    on_unavailable: str | None = column(
        Text(), "wait or fallback while its model is away; null = the batch's", nullable=True
    )
    validators: dict[str, Any] | None = column(
        JSON(), "Rules that the answer must keep; null = none of its own", nullable=True
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


class RequestFactsRow(SQLModel, table=True):
    """What is known of some consecutive jobs' requests; not there where an older scorer read them.

    The digests are stored as they are: they can't be compressed.
    """

    __tablename__ = "request_facts"
    __table_args__ = (
        CheckConstraint("first_job >= 0 AND job_count > 0", name="request_facts_jobs"),
        {"comment": "What the selection needs to know of requests, so that it need not read them"},
    )

    batch_id: UUID = batch_key(references=True)
    first_job: int = column(Integer(), "Number of the first job", primary_key=True)
    job_count: int = column(Integer(), "Number of consecutive jobs")
    format: int = column(Integer(), "Number of the format that the rest is in")
    columns: bytes = column(
        LargeBinary(), "Tokens, limits, choices, kind and flags of each request"
    )
    kinds: list[Any] = column(JSON(), "What requests have in common: limits, parts, capabilities")
    digests: bytes = column(LargeBinary(), "A digest of each request with its limits")


class FollowerRow(SQLModel, table=True):
    """A duplicate: a job that gets the result of an identical one, its original."""

    __tablename__ = "followers"
    __table_args__ = (
        CheckConstraint("leader_no < job_no", name="followers_leader"),
        # The duplicates of a job are looked up here in the transaction that saves its result.
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
        CheckConstraint(
            "escalation_chance BETWEEN 0 AND 1 AND (probe OR escalation_chance = 0)",
            name="assignments_escalation",
        ),
        {"comment": "Models chosen; the highest revision of a job counts"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    revision: int = column(Integer(), "From 1; plans are revised, not rewritten", primary_key=True)
    model: str = column(Text(), "Name of the candidate model")
    expected_quality: float = column(REAL(), "Predicted quality of its answer, in [0, 1]")
    expected_cost_usd: Decimal = column(
        USD, "Expected cost of the call, or of both calls of a probe, in USD"
    )
    probe: bool = column(
        Boolean(), "Its answer is judged, and another model may be asked", default="false"
    )
    escalation_chance: float = column(
        REAL(), "Probability that another model is asked after a probe", default="0"
    )


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
    sent: bool = column(
        Boolean(), "Its call may have been sent; false = surely not", default="true"
    )


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
    cached_prompt_tokens: int | None = column(
        Integer(), "Of the prompt tokens, those billed at cached_prompt", nullable=True
    )
    probe: bool = column(Boolean(), "Its answer is judged before it is accepted", default="false")
    token_probabilities: dict[str, Any] | None = column(
        JSON(), "Summary of the log-probabilities of the answer's tokens", nullable=True
    )
    cache_write_tokens: int | None = column(
        Integer(), "Of the prompt tokens, those billed at cache_write", nullable=True
    )


class KeptAnswerRow(SQLModel, table=True):
    """An answer that is kept until it is decided about, or as the best of a job without a good one.

    Its tokens, cost and model stand in `attempts`.
    """

    __tablename__ = "kept_answers"
    __table_args__ = (
        {"comment": "Answers that were paid and are not, or not yet, their job's result"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    attempt_no: int = column(Integer(), "The call that it answered", primary_key=True)
    answer: str = column(Text(), "Text of its first choice")
    response: dict[str, Any] = column(JSON(), RESPONSE_COMMENT)
    finish_reason: str | None = column(
        Text(), "Why it ended, as far as the endpoint told", nullable=True
    )
    created_at: datetime = created_at()


class AnswerJudgementRow(SQLModel, table=True):
    """What was decided about an answer, and by which figures."""

    __tablename__ = "answer_judgements"
    __table_args__ = (
        one_of("decision", ("accepted", "escalated"), "answer_judgements_decision"),
        {"comment": "What was decided about answers that were judged, or broke a rule"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    attempt_no: int = column(Integer(), "The call that it answered", primary_key=True)
    before: float | None = column(
        REAL(), "Probability that its model is right, by the prompt alone", nullable=True
    )
    after: float | None = column(
        REAL(), "Probability that the answer is good; null where none was estimated", nullable=True
    )
    threshold: float | None = column(
        REAL(),
        "Value of the best other model: its quality less its price; null where there is none",
        nullable=True,
    )
    price_per_usd: float | None = column(REAL(), "Quality that a dollar had to buy", nullable=True)
    next_model: str | None = column(
        Text(), "The model that was to be asked next; null = none", nullable=True
    )
    fault: str | None = column(
        Text(), "Which rule of the job it breaks, and how; null = none", nullable=True
    )
    decision: str = column(Text(), "accepted or escalated")
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
        one_of("reason", DeviationReason, "results_reason"),
        one_of("decision", AnswerDecision, "results_decision"),
        # These jobs are looked at while a batch runs, by why and by what went wrong.
        Index(
            "results_deviations",
            "batch_id",
            "reason",
            "quality_change",
            postgresql_where=text("reason IS NOT NULL"),
        ),
        Index(
            "results_unanswered",
            "batch_id",
            "error_code",
            "job_no",
            postgresql_where=text("status <> 'succeeded'"),
        ),
        {"comment": "How each job ended: exactly one row a job"},
    )

    batch_id: UUID = batch_key()
    job_no: int = column(Integer(), "The job", primary_key=True)
    status: str = column(Text(), "succeeded, failed, expired, budget_exhausted or cancelled")
    model: str | None = column(Text(), "Candidate model that answered", nullable=True)
    answer: str | None = column(Text(), "Text of its first choice", nullable=True)
    response: dict[str, Any] | None = column(JSON(), RESPONSE_COMMENT, nullable=True)
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
    reason: str | None = column(
        Text(), "Why another model than planned answered; null = the planned one", nullable=True
    )
    expected_quality: float | None = column(
        REAL(), "Predicted for a model that was not the planned one, in [0, 1]", nullable=True
    )
    expected_cost_usd: Decimal | None = column(
        USD, "Expected of a call to a model that was not the planned one, in USD", nullable=True
    )
    decision: str = column(
        Text(),
        "direct, accepted (a probe's answer stands), escalated (asked after another answer) "
        "or kept (no better one could be had)",
        default="'direct'",
    )
    finish_reason: str | None = column(
        Text(), "Why the answer ended, as far as the endpoint told", nullable=True
    )
    quality_change: float | None = column(
        REAL(),
        "Expected quality less the planned model's; null where the planned model answered",
        nullable=True,
    )


class GradeRow(SQLModel, table=True):
    """A grader's score of a job's answer."""

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
