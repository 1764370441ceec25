"""Promotions that undo others.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "checkpoint_promotions", sa.Column("is_rollback", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Whether it undoes the promotion before it")
    )
    op.alter_column(
        "checkpoint_promotions", "reason", existing_type=sa.TEXT(), comment="Why", existing_comment="promoted, rolled back, or trained from runs; and why", existing_nullable=False
    )


def downgrade() -> None:
    op.alter_column(
        "checkpoint_promotions", "reason", existing_type=sa.TEXT(), comment="promoted, rolled back, or trained from runs; and why", existing_comment="Why", existing_nullable=False
    )
    op.drop_column("checkpoint_promotions", "is_rollback")
