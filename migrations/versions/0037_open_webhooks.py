"""Webhooks of which there is something to tell are found without those that were told.

Revision ID: 0037
Revises: 0036
"""

import sqlalchemy as sa
from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "batch_webhooks_open",
        "batch_webhooks",
        ["batch_id"],
        postgresql_where=sa.text("ended_at IS NULL OR next_try_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("batch_webhooks_open", "batch_webhooks")
