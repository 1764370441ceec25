"""Schedules: what is to run when, and every firing that came of them."""

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, CheckConstraint, Integer, Text, UniqueConstraint, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import SQLModel

from routoo.store.tables.column import TIMESTAMP, USD, column, created_at, one_of
from routoo.store.tables.evaluation import reference

MISSED_POLICIES = ("run-once", "skip")
FIRING_OUTCOMES = ("submitted", "skipped", "failed")


class ScheduleRow(SQLModel, table=True):
    """Evaluation runs to make again and again."""

    __tablename__ = "schedules"
    __table_args__ = (
        UniqueConstraint("name", name="schedules_name"),
        one_of("missed", MISSED_POLICIES, "schedules_missed"),
        CheckConstraint("budget_usd >= 0", name="schedules_budget"),
        CheckConstraint("sample_budget_usd >= 0", name="schedules_sample_budget"),
        CheckConstraint("sample_size >= 0", name="schedules_sample_size"),
        {"comment": "Evaluation runs to make again and again"},
    )

    id: UUID = column(Uuid(), "Key of the schedule", primary_key=True)
    name: str = column(Text(), "What its owner calls it")
    eval_set: str = column(Text(), "Name of the evaluation set; its newest version is run")
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
