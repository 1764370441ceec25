"""Calls say how much of their prompt the endpoint wrote to its cache.

Revision ID: 0034
Revises: 0033
"""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("cache_write_tokens", sa.Integer(), nullable=True, comment="Of the prompt tokens, those billed at cache_write"))


def downgrade() -> None:
    op.drop_column("attempts", "cache_write_tokens")
