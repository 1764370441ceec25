"""Alerts are posted as webhooks of batches are: counted first, and again until they are accepted.

Revision ID: 0038
Revises: 0037
"""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("eval_alerts", sa.Column("next_try_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="When it is posted again; null = not any more"))
    op.add_column("eval_alerts", sa.Column("error", sa.Text(), nullable=True, comment="Why the last call was not accepted"))
    op.execute("UPDATE eval_alerts SET next_try_at = now() WHERE delivered_at IS NULL AND deliveries BETWEEN 1 AND 9")


def downgrade() -> None:
    op.drop_column("eval_alerts", "error")
    op.drop_column("eval_alerts", "next_try_at")
