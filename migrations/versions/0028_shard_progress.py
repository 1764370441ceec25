"""Shards know how far they were when they were claimed; reservations whether their call was sent.

Revision ID: 0028
Revises: 0027
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("shards", sa.Column("progress", sa.Integer(), nullable=False, server_default="0", comment="Jobs that had ended or kept an answer when it was claimed last"))
    op.alter_column("shards", "attempts", comment="Times it was started without progress, and not handed back", existing_comment="Times it was started and not handed back")
    # True for workers of the version before, which don't say.
    op.add_column("reservations", sa.Column("sent", sa.Boolean(), nullable=False, server_default="true", comment="Its call may have been sent; false = surely not"))


def downgrade() -> None:
    op.drop_column("reservations", "sent")
    op.alter_column("shards", "attempts", comment="Times it was started and not handed back", existing_comment="Times it was started without progress, and not handed back")
    op.drop_column("shards", "progress")
