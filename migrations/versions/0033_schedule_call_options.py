"""Schedules say how the calls of their runs are made.

Revision ID: 0033
Revises: 0032
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("schedules", sa.Column("call_options", JSONB(), nullable=True, comment="How the calls of a run are made; null = the defaults"))


def downgrade() -> None:
    op.drop_column("schedules", "call_options")
