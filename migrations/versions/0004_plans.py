"""Plans: two statuses, what a batch aims at, and lists of models that may answer a job.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BEFORE = "'in_progress', 'paused', 'cancelling', 'completed', 'failed', 'cancelled'"
_WORDS_BEFORE = "in_progress, paused, cancelling, completed, failed or cancelled"


def upgrade() -> None:
    op.drop_constraint("batches_status", "batches")
    op.create_check_constraint("batches_status", "batches", f"status IN ('planning', 'planned', {_BEFORE})")
    op.alter_column("batches", "status", comment=f"planning, planned, {_WORDS_BEFORE}", existing_comment=_WORDS_BEFORE)
    op.add_column("batches", sa.Column("objective", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="What the selection aims at; null = most quality for the budget"))
    op.add_column("batches", sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=True, comment="When its plan was submitted; null where there was no plan"))
    op.add_column("jobs", sa.Column("allowed_models", sa.ARRAY(sa.Text()), nullable=True, comment="The only candidate models that may answer; null = all"))
    op.add_column("jobs", sa.Column("denied_models", sa.ARRAY(sa.Text()), nullable=True, comment="Candidate models that may not answer"))


def downgrade() -> None:
    # A plan that was never submitted made no call: it ends as cancelled.
    op.execute("UPDATE batches SET status = 'cancelled' WHERE status IN ('planning', 'planned')")
    op.drop_column("jobs", "denied_models")
    op.drop_column("jobs", "allowed_models")
    op.drop_column("batches", "submitted_at")
    op.drop_column("batches", "objective")
    op.alter_column("batches", "status", comment=_WORDS_BEFORE, existing_comment=f"planning, planned, {_WORDS_BEFORE}")
    op.drop_constraint("batches_status", "batches")
    op.create_check_constraint("batches_status", "batches", f"status IN ({_BEFORE})")
