"""Evaluation: sets of items with references, runs over them, and what the runs warn of."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from routoo.store.tables.column import TIMESTAMP, column, created_at, one_of

RUN_STATES = ("running", "judging", "finished", "failed")
RUN_MODES = ("routed", "full")
EVAL_SET_PURPOSES = ("evaluation", "training")


def reference(
    target: str, comment: str, *, nullable: bool = False, primary_key: bool = False
) -> Any:  # noqa: ANN401 - stands as the default of a field of any type
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
