"""Tables of evaluation: sets, runs, alerts, schedules, and the checkpoints that runs compare."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from routoo.store.tables.column import TIMESTAMP, USD, column, created_at, one_of

RUN_STATES = ("running", "judging", "finished", "failed")
RUN_MODES = ("routed", "full")
EVAL_SET_PURPOSES = ("evaluation", "training")


def reference(
    target: str, comment: str, *, nullable: bool = False, primary_key: bool = False
) -> Any:
    """Return a foreign key: its row goes with the one it names, or forgets it where it may."""
    key = ForeignKey(target, ondelete="SET NULL" if nullable else "CASCADE")
    return Field(
        sa_column=Column(Uuid(), key, nullable=nullable, primary_key=primary_key, comment=comment)
    )


class EvalSetRow(SQLModel, table=True):
    """One version of an evaluation set; the newest version of a name counts."""

    __tablename__ = "eval_sets"
    __table_args__ = (
        UniqueConstraint("name", "content_sha256", name="eval_sets_version"),
        one_of("purpose", EVAL_SET_PURPOSES, "eval_sets_purpose"),
        CheckConstraint("item_count > 0", name="eval_sets_item_count"),
        {"comment": "Versions of evaluation sets; unchanging once written"},
    )

    id: UUID = column(Uuid(), "Key of the version", primary_key=True)
    name: str = column(Text(), "What its owner calls it")
    content_sha256: str = column(Text(), "Hash over all items, references and graders")
    purpose: str = column(
        Text(), "evaluation: never trained on; training: collects outcomes", default="'evaluation'"
    )
    item_count: int = column(Integer(), "Items in the set")
    created_at: datetime = created_at()


class EvalItemRow(SQLModel, table=True):
    """One question of an evaluation set, with its reference."""

    __tablename__ = "eval_items"
    __table_args__ = (
        UniqueConstraint("eval_set_id", "item_id", name="eval_items_item_id"),
        Index("eval_items_text", "text_sha256"),
        CheckConstraint("item_no >= 0", name="eval_items_item_no"),
        {"comment": "Items of evaluation sets"},
    )

    eval_set_id: UUID = reference("eval_sets.id", "The set", primary_key=True)
    item_no: int = column(Integer(), "Position in the set, from 0", primary_key=True)
    item_id: str = column(Text(), "The owner's key, unique in the set")
    prompt: str = column(Text(), "What a router sees and a model is asked")
    text_sha256: str = column(Text(), "Hash of the normalised prompt: keeps it out of training")
    dataset: str | None = column(Text(), "Where it comes from", nullable=True)
    subject: str | None = column(Text(), "Its domain", nullable=True)
    answer: str | None = column(Text(), "Reference answer", nullable=True)
    grader: str | None = column(Text(), "Name of its grader", nullable=True)
    grader_options: str | None = column(Text(), "The grader's options, JSON", nullable=True)
    max_tokens: int | None = column(Integer(), "Most completion tokens", nullable=True)


class EvalRunRow(SQLModel, table=True):
    """One run over an evaluation set: an ordinary batch of kind evaluation, and its grading."""

    __tablename__ = "eval_runs"
    __table_args__ = (
        UniqueConstraint("batch_id", name="eval_runs_batch"),
        one_of("mode", RUN_MODES, "eval_runs_mode"),
        one_of("state", RUN_STATES, "eval_runs_state"),
        {"comment": "Runs over evaluation sets"},
    )

    id: UUID = column(Uuid(), "Key of the run", primary_key=True)
    eval_set_id: UUID = reference("eval_sets.id", "The set's version")
    schedule_id: UUID | None = reference("schedules.id", "Schedule that fired it", nullable=True)
    batch_id: UUID = reference("batches.id", "The routed jobs; job_no is item_no")
    sample_batch_id: UUID | None = reference(
        "batches.id",
        "Jobs that every candidate answers; job_no is position in sample_items times models"
        " plus position in the pool",
        nullable=True,
    )
    judge_batch_id: UUID | None = reference(
        "batches.id", "Calls to the judge: two for each answer it compares", nullable=True
    )
    mode: str = column(Text(), "routed, or full: every candidate answers a sample too")
    recorded: bool = column(Boolean(), "Answers replayed from recorded outcomes", default="false")
    sample_items: list[int] = Field(
        sa_column=Column(
            ARRAY(Integer()), nullable=False, server_default="{}", comment="item_no of the sample"
        )
    )
    judge: dict[str, Any] | None = column(
        JSONB(), "Model that judges, and the most its calls may cost", nullable=True
    )
    checkpoint_sha256: str | None = column(
        Text(), "Weights of the promoted predictor when the run began", nullable=True
    )
    state: str = column(Text(), "running, judging, finished or failed", default="'running'")
    figures: dict[str, Any] | None = column(JSONB(), "Headline figures, once graded", nullable=True)
    error: str | None = column(Text(), "Why it failed", nullable=True)
    created_at: datetime = created_at()
    finished_at: datetime | None = column(
        TIMESTAMP, "When the last answer was graded", nullable=True
    )


class AlertRow(SQLModel, table=True):
    """Something that a run found worse than the runs before it."""

    __tablename__ = "eval_alerts"
    __table_args__ = (
        CheckConstraint("deliveries >= 0", name="eval_alerts_deliveries"),
        {"comment": "What runs warn of"},
    )

    run_id: UUID = reference("eval_runs.id", "The run", primary_key=True)
    kind: str = column(Text(), "quality, cost, calibration, answers or novelty", primary_key=True)
    subject: str = column(Text(), "Model concerned; empty for the whole run", primary_key=True)
    message: str = column(Text(), "What was found, for people")
    facts: dict[str, Any] = column(JSONB(), "The change and its interval")
    created_at: datetime = created_at()
    deliveries: int = column(Integer(), "Webhook calls tried", default="0")
    delivered_at: datetime | None = column(TIMESTAMP, "When the webhook took it", nullable=True)
    next_try_at: datetime | None = column(
        TIMESTAMP, "When it is posted again; null = not any more", nullable=True
    )
    error: str | None = column(Text(), "Why the last call was not accepted", nullable=True)


class CheckpointRow(SQLModel, table=True):
    """A predictor checkpoint that scorers may load."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        UniqueConstraint("weights_sha256", name="checkpoints_weights"),
        {"comment": "Predictor checkpoints, with the figures they were registered with"},
    )

    id: UUID = column(Uuid(), "Key of the checkpoint", primary_key=True)
    path: str = column(Text(), "Folder, the same on every scorer")
    weights_sha256: str = column(Text(), "Hash of its weights file")
    manifest: dict[str, Any] = column(JSONB(), "Backbone, models, training data, figures")
    registered_at: datetime = created_at()


class PromotionRow(SQLModel, table=True):
    """The event that a checkpoint was put into use; the latest row counts."""

    __tablename__ = "checkpoint_promotions"
    __table_args__ = ({"comment": "Which checkpoint scorers use: the latest row's"},)

    promotion_no: int = Field(
        sa_column=Column(
            Integer(), Identity(always=True), primary_key=True, comment="Order of promotions"
        )
    )
    checkpoint_id: UUID = reference("checkpoints.id", "The checkpoint")
    reason: str = column(Text(), "Why")
    is_rollback: bool = column(
        Boolean(), "Whether it undoes the promotion before it", default="false"
    )
    promoted_at: datetime = created_at()


MISSED_POLICIES = ("run-once", "skip")
FIRING_OUTCOMES = ("submitted", "skipped", "failed")


class ScheduleRow(SQLModel, table=True):
    """Evaluation runs or batches to begin again and again."""

    __tablename__ = "schedules"
    __table_args__ = (
        UniqueConstraint("name", name="schedules_name"),
        one_of("missed", MISSED_POLICIES, "schedules_missed"),
        CheckConstraint("budget_usd >= 0", name="schedules_budget"),
        CheckConstraint("sample_budget_usd >= 0", name="schedules_sample_budget"),
        CheckConstraint("sample_size >= 0", name="schedules_sample_size"),
        CheckConstraint("(eval_set IS NULL) <> (batch IS NULL)", name="schedules_work"),
        {"comment": "Evaluation runs to make again and again"},
    )

    id: UUID = column(Uuid(), "Key of the schedule", primary_key=True)
    name: str = column(Text(), "What its owner calls it")
    eval_set: str | None = column(
        Text(), "Name of the evaluation set; its newest version is run", nullable=True
    )
    cron: str = column(Text(), "Five fields: minute, hour, day, month, weekday")
    time_zone: str = column(Text(), "IANA name of the zone that the cron fields are meant in")
    missed: str = column(Text(), "What becomes of firings nobody was there for: run-once or skip")
    pool: dict[str, Any] = column(JSONB(), "Candidate models with the prices of that day")
    budget_usd: Decimal | None = column(USD, "Most that a run may cost, in USD", nullable=True)
    sample_size: int = column(Integer(), "Items that every candidate answers", default="0")
    sample_budget_usd: Decimal | None = column(
        USD, "Most that those answers may cost, in USD", nullable=True
    )
    judge: dict[str, Any] | None = column(
        JSONB(), "Model that judges, and the most its calls may cost", nullable=True
    )
    rollback: bool = column(
        Boolean(), "Whether worse quality brings the previous checkpoint back", default="false"
    )
    paused: bool = column(Boolean(), "Whether it fires not", default="false")
    next_due_at: datetime = column(TIMESTAMP, "The next instant to fire at")
    created_at: datetime = created_at()
    objective: dict[str, Any] | None = column(
        JSONB(), "What a run aims at; null = most quality for the budget", nullable=True
    )
    call_options: dict[str, Any] | None = column(
        JSONB(), "How the calls of a run are made; null = the defaults", nullable=True
    )
    batch: dict[str, Any] | None = column(
        JSONB(), "What is submitted, and how; null = an evaluation run", nullable=True
    )


class FiringRow(SQLModel, table=True):
    """One instant at which a schedule was due, and what came of it."""

    __tablename__ = "schedule_firings"
    __table_args__ = (
        one_of("outcome", FIRING_OUTCOMES, "schedule_firings_outcome"),
        CheckConstraint("missed >= 0", name="schedule_firings_missed"),
        {"comment": "Firings of schedules: one row an instant, whoever fired it"},
    )

    schedule_id: UUID = reference("schedules.id", "The schedule", primary_key=True)
    due_at: datetime = column(TIMESTAMP, "When it was due", primary_key=True)
    fired_at: datetime = column(TIMESTAMP, "When a scheduler took it", default="now()")
    outcome: str = column(Text(), "submitted, skipped or failed")
    missed: int = column(
        Integer(), "Earlier instants that passed unattended and are not run", default="0"
    )
    run_id: UUID | None = reference("eval_runs.id", "The run, where one was begun", nullable=True)
    owner: str = column(Text(), "The scheduler that fired it")
    detail: str | None = column(Text(), "Why it was skipped or failed", nullable=True)


class ScheduleBatchRow(SQLModel, table=True):
    """A batch that a schedule submitted."""

    __tablename__ = "schedule_batches"
    __table_args__ = (
        ForeignKeyConstraint(
            ["schedule_id", "due_at"],
            ["schedule_firings.schedule_id", "schedule_firings.due_at"],
            name="schedule_batches_firing",
            ondelete="CASCADE",
        ),
        Index("schedule_batches_source", "schedule_id", "source"),
        Index("schedule_batches_due", "schedule_id", "due_at"),
        {"comment": "Batches that schedules submitted"},
    )

    batch_id: UUID = column(
        Uuid(), "The batch, which may have been deleted since", primary_key=True
    )
    schedule_id: UUID = column(Uuid(), "The schedule")
    due_at: datetime = column(TIMESTAMP, "When it was due")
    source: str = column(Text(), "The file, or query for what a query returned")
    content_sha256: str | None = column(
        Text(), "Hash of the file, where it is submitted once", nullable=True
    )
    job_count: int = column(Integer(), "Jobs of the batch")
