"""What is kept of the past of a batch: results that a retry replaced, and warnings given."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import CheckConstraint, Integer, Text
from sqlmodel import SQLModel

from routoo.store.tables.column import TIMESTAMP, USD, batch_key, column, created_at


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
    """A share of its budget that a batch has used; each is told once."""

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
