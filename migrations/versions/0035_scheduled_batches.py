"""A schedule may submit batches of files or of a query, instead of evaluation runs.

Revision ID: 0035
Revises: 0034
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("schedules", "eval_set", nullable=True)
    op.add_column(
        "schedules",
        sa.Column("batch", postgresql.JSONB(), nullable=True, comment="What is submitted, and how; null = an evaluation run"),
    )
    op.create_check_constraint("schedules_work", "schedules", "(eval_set IS NULL) <> (batch IS NULL)")
    op.create_table(
        "schedule_batches",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch, which may have been deleted since"),
        sa.Column("schedule_id", sa.Uuid(), nullable=False, comment="The schedule"),
        sa.Column("due_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When it was due"),
        sa.Column("source", sa.Text(), nullable=False, comment="The file, or query for what a query returned"),
        sa.Column("content_sha256", sa.Text(), nullable=True, comment="Hash of the file, where it is submitted once"),
        sa.Column("job_count", sa.Integer(), nullable=False, comment="Jobs of the batch"),
        sa.PrimaryKeyConstraint("batch_id"),
        sa.ForeignKeyConstraint(
            ["schedule_id", "due_at"],
            ["schedule_firings.schedule_id", "schedule_firings.due_at"],
            name="schedule_batches_firing",
            ondelete="CASCADE",
        ),
        comment="Batches that schedules submitted",
    )
    op.create_index("schedule_batches_source", "schedule_batches", ["schedule_id", "source"])
    op.create_index("schedule_batches_due", "schedule_batches", ["schedule_id", "due_at"])


def downgrade() -> None:
    op.drop_table("schedule_batches")
    op.execute("DELETE FROM schedules WHERE batch IS NOT NULL")
    op.drop_constraint("schedules_work", "schedules")
    op.drop_column("schedules", "batch")
    op.alter_column("schedules", "eval_set", nullable=False)
