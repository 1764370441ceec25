"""Tables of batches: their state, money, units of queueing, plans, retries and warnings."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    REAL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from routoo.domain.job import BatchStatus, ShardState, Stage
from routoo.store.tables.column import (
    NAMES,
    REALS,
    TIMESTAMP,
    USD,
    batch_key,
    column,
    created_at,
    one_of,
)


class BatchRow(SQLModel, table=True):
    """A batch of jobs, submitted as a whole or not at all."""

    __tablename__ = "batches"
    __table_args__ = (
        UniqueConstraint("idempotency_key", name="batches_idempotency_key"),
        one_of("status", BatchStatus, "batches_status"),
        CheckConstraint("budget_usd >= 0", name="batches_budget"),
        CheckConstraint("max_cost_usd >= 0", name="batches_max_cost"),
        CheckConstraint("min_quality BETWEEN 0 AND 1", name="batches_min_quality"),
        CheckConstraint("job_count >= 0", name="batches_job_count"),
        {"comment": "Batches: prompts with limits, submitted as a whole or not at all"},
    )

    id: UUID = column(Uuid(), "Key of the batch", primary_key=True)
    name: str = column(Text(), "What its owner calls it; need not be unique")
    kind: str = column(Text(), "batch, or what else it serves", default="'batch'")
    idempotency_key: str | None = column(
        Text(), "A batch submitted twice with the same key is one batch", nullable=True
    )
    status: str = column(
        Text(),
        "planning, planned, in_progress, paused, cancelling, completed, failed or cancelled",
        default="'in_progress'",
    )
    pool: dict[str, Any] = column(JSONB(), "Candidate models with the prices of that day")
    budget_usd: Decimal | None = column(USD, "Most that all calls may cost, in USD", nullable=True)
    min_quality: float | None = column(
        REAL(), "Least mean predicted quality asked of the batch, in [0, 1]", nullable=True
    )
    max_cost_usd: Decimal | None = column(
        USD, "Most that one job may cost where it names no cap, in USD", nullable=True
    )
    deadline: datetime | None = column(TIMESTAMP, "No call starts after this", nullable=True)
    first_deadline: datetime | None = column(
        TIMESTAMP, "The earliest deadline of its jobs; null = none has one", nullable=True
    )
    job_count: int = column(Integer(), "Jobs in the batch", default="0")
    created_at: datetime = created_at()
    completed_at: datetime | None = column(TIMESTAMP, "When its last job ended", nullable=True)
    plan: dict[str, Any] | None = column(
        JSONB(), "What the selection expected: quality, cost, bound, prices", nullable=True
    )
    error: str | None = column(Text(), "Why the batch failed, and what to do", nullable=True)
    objective: dict[str, Any] | None = column(
        JSONB(), "What the selection aims at; null = most quality for the budget", nullable=True
    )
    submitted_at: datetime | None = column(
        TIMESTAMP, "When its plan was submitted; null where there was no plan", nullable=True
    )
    draft: bool = column(Boolean(), "Made as a plan, to be submitted later", default="false")
    call_options: dict[str, Any] | None = column(
        JSONB(), "How its calls are made; null = as usual", nullable=True
    )


class LedgerRow(SQLModel, table=True):
    """A batch's money: the constraint holds at any concurrency and through any crash."""

    __tablename__ = "ledgers"
    __table_args__ = (
        CheckConstraint("limit_usd >= 0 AND limit_usd < 'Infinity'", name="ledgers_limit"),
        CheckConstraint(
            "reserved_usd >= 0 AND spent_usd >= 0 AND overrun_usd >= 0", name="ledgers_positive"
        ),
        CheckConstraint(
            "limit_usd IS NULL OR reserved_usd + spent_usd <= limit_usd", name="ledgers_budget"
        ),
        # The row is updated for every call: room on its page keeps the updates off the index.
        {"comment": "Money of a batch", "postgresql_with": {"fillfactor": 50}},
    )

    batch_id: UUID = batch_key(references=True)
    limit_usd: Decimal | None = column(USD, "The budget; null = none", nullable=True)
    reserved_usd: Decimal = column(USD, "Worst case of the calls in flight", default="0")
    spent_usd: Decimal = column(USD, "Cost of settled calls, within their worst case", default="0")
    overrun_usd: Decimal = column(
        USD, "What endpoints billed beyond the worst case of a call", default="0"
    )
    fallback_usd: Decimal = column(
        USD, "Kept for the cheapest calls of open jobs: the sum of the shards'", default="0"
    )
    key_id: UUID | None = Field(
        default=None,
        sa_column=Column(
            Uuid(),
            ForeignKey("api_keys.id", name="ledgers_key"),
            comment="Key whose daily limit its calls count against, by a trigger",
        ),
    )


class ShardRow(SQLModel, table=True):
    """One contiguous slice of a batch in one stage: the unit of queueing."""

    __tablename__ = "shards"
    __table_args__ = (
        one_of("stage", Stage, "shards_stage"),
        one_of("state", ShardState, "shards_state"),
        CheckConstraint("first_job >= 0 AND job_count > 0", name="shards_slice"),
        CheckConstraint(
            "(state = 'leased') = (owner IS NOT NULL AND lease_expires_at IS NOT NULL)",
            name="shards_lease",
        ),
        Index("shards_put_off", "batch_id", postgresql_where=text("waits_for IS NOT NULL")),
        {"comment": "Units of queueing: slices of a batch, a row a stage"},
    )

    batch_id: UUID = batch_key(references=True)
    stage: str = column(Text(), "score, select or dispatch", primary_key=True)
    shard_no: int = column(Integer(), "Position in the stage, from 0", primary_key=True)
    first_job: int = column(Integer(), "First job_no of the slice")
    job_count: int = column(Integer(), "Jobs in the slice")
    state: str = column(Text(), "blocked, ready, leased, done or parked")
    owner: str | None = column(Text(), "Worker that holds the lease", nullable=True)
    lease_expires_at: datetime | None = column(
        TIMESTAMP, "After this instant another worker may take the shard over", nullable=True
    )
    epoch: int = column(Integer(), "Counts owners; a write of an older one fails", default="0")
    attempts: int = column(
        Integer(), "Times it was started without progress, and not handed back", default="0"
    )
    progress: int = column(
        Integer(), "Jobs that had ended or kept an answer when it was claimed last", default="0"
    )
    error: str | None = column(Text(), "Why it failed last", nullable=True)
    not_before: datetime | None = column(
        TIMESTAMP, "A ready shard waits until then; null = it does not", nullable=True
    )
    next_deadline: datetime | None = column(
        TIMESTAMP,
        "No deadline of its jobs that passed before this is unseen; null = none to come",
        nullable=True,
    )
    waits_for: list[str] | None = column(
        NAMES,
        "Endpoints that it was put off for, by their keys; null = for none and no money",
        nullable=True,
    )
    waits_usd: Decimal | None = column(
        USD, "Money in USD that it was put off for; null = for none", nullable=True
    )
    fallback_usd: Decimal = column(
        USD,
        "Money that the batch's ledger keeps for the cheapest calls of its open jobs",
        default="0",
    )


class FloorRow(SQLModel, table=True):
    """What is taken off estimates of a batch whose quality floors hold with confidence."""

    __tablename__ = "floors"
    __table_args__ = ({"comment": "Margins of batches whose quality floors hold with confidence"},)

    batch_id: UUID = batch_key(references=True)
    margins: list[float] = column(REALS, "Taken off predicted quality, in pool order")


class PromptFactorRow(SQLModel, table=True):
    """Prompt tokens that a batch's models bill for one that is estimated, by its checkpoint."""

    __tablename__ = "prompt_factors"
    __table_args__ = (
        {"comment": "What the checkpoint that scored a batch knows of its models' prompt tokens"},
    )

    batch_id: UUID = batch_key(references=True)
    factors: list[float] = column(REALS, "Prompt tokens billed for one estimated, in pool order")


class ReplanRow(SQLModel, table=True):
    """One revision of a running batch's plan: the history of why and what changed."""

    __tablename__ = "replans"
    __table_args__ = (
        CheckConstraint("revision > 1", name="replans_revision"),
        CheckConstraint(
            "(decided_at IS NULL) = (moved IS NULL) AND (decided_at IS NULL) = (before IS NULL)"
            " AND (decided_at IS NULL) = (after IS NULL)",
            name="replans_decided",
        ),
        {"comment": "Plans of running batches made anew: why, when, and what changed"},
    )

    batch_id: UUID = batch_key(references=True)
    revision: int = column(Integer(), "From 2: the first plan is revision 1", primary_key=True)
    reason: str = column(Text(), "Why the batch was planned anew")
    requested_at: datetime = column(TIMESTAMP, "When that was asked for", default="now()")
    decided_at: datetime | None = column(TIMESTAMP, "When it was done", nullable=True)
    moved: int | None = column(Integer(), "Jobs whose model changed", nullable=True)
    before: dict[str, Any] | None = column(
        JSONB(), "Expected of the jobs not under way, as they were assigned", nullable=True
    )
    after: dict[str, Any] | None = column(
        JSONB(), "Expected of the same jobs as they are assigned now", nullable=True
    )


class SupersededResultRow(SQLModel, table=True):
    """How a job had ended before a retry opened it again."""

    __tablename__ = "superseded_results"
    __table_args__ = (
        # Only jobs without an answer are opened again: what was paid for is never thrown away.
        CheckConstraint("status <> 'succeeded'", name="superseded_results_status"),
        {"comment": "Results that retries replaced, append-only"},
    )

    batch_id: UUID = batch_key()
    retry_no: int = column(Integer(), "Retry of the batch, from 1", primary_key=True)
    job_no: int = column(Integer(), "The job", primary_key=True)
    status: str = column(Text(), "failed, expired, budget_exhausted or cancelled")
    model: str | None = column(Text(), "Candidate model asked last", nullable=True)
    cost_usd: Decimal = column(USD, "Of all calls of the job so far, in USD")
    attempts: int = column(Integer(), "Calls made for the job so far")
    error_code: str | None = column(Text(), "Kind of failure", nullable=True)
    error_message: str | None = column(Text(), "What went wrong", nullable=True)
    ended_at: datetime = column(TIMESTAMP, "When the job had ended so")
    created_at: datetime = created_at()


class BudgetWarningRow(SQLModel, table=True):
    """A share of its budget that a batch has used; each is warned of once."""

    __tablename__ = "budget_warnings"
    __table_args__ = (
        CheckConstraint("percent BETWEEN 1 AND 100", name="budget_warnings_percent"),
        {"comment": "Shares of the budget that were used up, each told once a budget"},
    )

    batch_id: UUID = batch_key()
    limit_usd: Decimal = column(USD, "The budget then: a raised one warns anew", primary_key=True)
    percent: int = column(Integer(), "Share of the budget, in per cent", primary_key=True)
    spent_usd: Decimal = column(USD, "What the batch had cost when it was noticed")
    created_at: datetime = created_at()


class BatchCountRow(SQLModel, table=True):
    """A change of a batch's counts, written by triggers of `results` and `attempts`.

    A statement adds a row for each group of alike results or calls and changes none, so that
    writers never wait for each other. Old rows are merged now and then.
    """

    __tablename__ = "batch_counts"
    __table_args__ = (
        {"comment": "How results and calls change their batch's counts; sums are the counts"},
    )

    batch_id: UUID = batch_key()
    entry_no: int = Field(
        sa_column=Column(
            BigInteger(), Identity(always=True), primary_key=True, comment="Tells entries apart"
        )
    )
    model: str | None = column(Text(), "That answered, or was called", nullable=True)
    status: str | None = column(
        Text(), "How the jobs ended; null in entries of calls", nullable=True
    )
    error_code: str | None = column(Text(), "Kind of failure", nullable=True)
    reason: str | None = column(Text(), "Why another model than planned answered", nullable=True)
    results: int = column(
        Integer(), "Jobs that ended so; below 0 where a retry opened them again", default="0"
    )
    downgrades: int = column(
        Integer(), "Of these, by a model expected to be worse than the planned one", default="0"
    )
    upgrades: int = column(Integer(), "Of these, by a model expected to be better", default="0")
    calls: int = column(Integer(), "Calls that ended", default="0")
    cost_usd: Decimal = column(USD, "Of these calls, in USD", default="0")
    first_at: datetime = column(TIMESTAMP, "When the first of them was written", default="now()")
    created_at: datetime = created_at()
