"""Schedules have aims beside their budget.

Revision ID: 0015
Revises: 0014
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("schedules", sa.Column("objective", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="What a run aims at; null = most quality for the budget"))


def downgrade() -> None:
    op.drop_column("schedules", "objective")
