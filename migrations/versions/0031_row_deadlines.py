"""Shards say when the next deadline of their jobs passes, so that rows expire without a worker.

Revision ID: 0031
Revises: 0030
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

FILL = """
UPDATE batches SET first_deadline = (SELECT min(deadline) FROM jobs WHERE batch_id = id)
WHERE status IN ('planning', 'planned', 'in_progress', 'paused')
"""
WATCH = """
UPDATE shards SET next_deadline = first_deadline
FROM batches WHERE id = batch_id AND stage = 'dispatch'
"""


def upgrade() -> None:
    op.add_column("batches", sa.Column("first_deadline", sa.DateTime(timezone=True), nullable=True, comment="The earliest deadline of its jobs; null = none has one"))
    op.add_column("shards", sa.Column("next_deadline", sa.DateTime(timezone=True), nullable=True, comment="No deadline of its jobs that passed before this is unseen; null = none to come"))
    op.execute(FILL)
    op.execute(WATCH)


def downgrade() -> None:
    op.drop_column("shards", "next_deadline")
    op.drop_column("batches", "first_deadline")
