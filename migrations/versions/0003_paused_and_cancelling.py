"""Batches can be paused and cancelled.

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATUSES = "'in_progress', 'paused', 'cancelling', 'completed', 'failed', 'cancelled'"
STATUSES_BEFORE = "'in_progress', 'completed', 'failed', 'cancelled'"


def upgrade() -> None:
    _set_statuses(STATUSES, "in_progress, paused, cancelling, completed, failed or cancelled")


def downgrade() -> None:
    # The older code knows neither state: both are near enough to it that nothing is lost.
    op.execute("UPDATE batches SET status = 'in_progress' WHERE status = 'paused'")
    op.execute("UPDATE batches SET status = 'cancelled' WHERE status = 'cancelling'")
    _set_statuses(STATUSES_BEFORE, "in_progress, completed, failed or cancelled")


def _set_statuses(statuses: str, comment: str) -> None:
    op.drop_constraint("batches_status", "batches")
    op.create_check_constraint("batches_status", "batches", f"status IN ({statuses})")
    op.alter_column("batches", "status", comment=comment)
