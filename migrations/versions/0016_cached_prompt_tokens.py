"""Calls say how much of their prompt was in the endpoint's cache.

Revision ID: 0016
Revises: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("cached_prompt_tokens", sa.Integer(), nullable=True, comment="Of the prompt tokens, those billed at cached_prompt"))


def downgrade() -> None:
    op.drop_column("attempts", "cached_prompt_tokens")
