"""Webhooks of batches: who is told how a batch ended.

Revision ID: 0036
Revises: 0035
"""

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "batch_webhooks",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the webhook, part of its messages' ids"),
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("event", sa.Text(), nullable=False, comment="What is told: success or failure"),
        sa.Column("url", sa.Text(), nullable=False, comment="Where it is posted"),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="The batch's end that was looked at last"),
        sa.Column("deliveries", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Calls for that end so far"),
        sa.Column("next_try_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="When it is called again; null = not for that end"),
        sa.Column("delivered_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="When it accepted that end"),
        sa.Column("error", sa.Text(), nullable=True, comment="Why the last call was not accepted"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("event IN ('success', 'failure')", name="batch_webhooks_event"),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        comment="Who is told how a batch ended",
    )
    op.create_index("batch_webhooks_batch", "batch_webhooks", ["batch_id"])


def downgrade() -> None:
    op.drop_table("batch_webhooks")
