"""Rows may say what happens while their model takes no calls.

Revision ID: 0024
Revises: 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("on_unavailable", sa.Text(), nullable=True, comment="wait or fallback while its model is away; null = the batch's"))
    op.create_check_constraint("jobs_on_unavailable", "jobs", "on_unavailable IN ('wait', 'fallback')")


def downgrade() -> None:
    op.drop_column("jobs", "on_unavailable")
