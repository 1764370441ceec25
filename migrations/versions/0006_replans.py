"""Plans of running batches made anew.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replans",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("revision", sa.Integer(), nullable=False, comment="From 2: the first plan is revision 1"),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why the batch was planned anew"),
        sa.Column("requested_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When that was asked for"),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True, comment="When it was done"),
        sa.Column("moved", sa.Integer(), nullable=True, comment="Jobs whose model changed"),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="Expected of the jobs not under way, as they were assigned"),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="Expected of the same jobs as they are assigned now"),
        sa.CheckConstraint("revision > 1", name="replans_revision"),
        sa.CheckConstraint("(decided_at IS NULL) = (moved IS NULL) AND (decided_at IS NULL) = (before IS NULL) AND (decided_at IS NULL) = (after IS NULL)", name="replans_decided"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id", "revision"),
        comment="Plans of running batches made anew: why, when, and what changed",
    )


def downgrade() -> None:
    op.drop_table("replans")
