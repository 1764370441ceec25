"""Retries keep what they replace; shares of a budget that are used up are told once.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batches", sa.Column("draft", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Made as a plan, to be submitted later"))
    op.add_column("batches", sa.Column("call_options", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="How its calls are made; null = as usual"))
    op.execute("UPDATE batches SET draft = true WHERE status IN ('planning', 'planned') OR submitted_at IS NOT NULL")
    op.create_table(
        "superseded_results",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("retry_no", sa.Integer(), nullable=False, comment="Retry of the batch, from 1"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("status", sa.Text(), nullable=False, comment="failed, expired, budget_exhausted or cancelled"),
        sa.Column("model", sa.Text(), nullable=True, comment="Candidate model asked last"),
        sa.Column("cost_usd", sa.Numeric(), nullable=False, comment="Of all calls of the job so far, in USD"),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="Calls made for the job so far"),
        sa.Column("error_code", sa.Text(), nullable=True, comment="Kind of failure"),
        sa.Column("error_message", sa.Text(), nullable=True, comment="What went wrong"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False, comment="When the job had ended so"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("status <> 'succeeded'", name="superseded_results_status"),
        sa.PrimaryKeyConstraint("batch_id", "retry_no", "job_no"),
        comment="Results that retries replaced, append-only",
    )
    op.create_table(
        "budget_warnings",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("limit_usd", sa.Numeric(), nullable=False, comment="The budget then: a raised one warns anew"),
        sa.Column("percent", sa.Integer(), nullable=False, comment="Share of the budget, in per cent"),
        sa.Column("spent_usd", sa.Numeric(), nullable=False, comment="What the batch had cost when it was noticed"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("percent BETWEEN 1 AND 100", name="budget_warnings_percent"),
        sa.PrimaryKeyConstraint("batch_id", "limit_usd", "percent"),
        comment="Shares of the budget that were used up, each told once a budget",
    )


def downgrade() -> None:
    op.drop_table("budget_warnings")
    op.drop_table("superseded_results")
    op.drop_column("batches", "call_options")
    op.drop_column("batches", "draft")
