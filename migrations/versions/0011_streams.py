"""Streams: endless submissions, paced by a budget an hour.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "streams",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the stream"),
        sa.Column("name", sa.Text(), nullable=False, comment="What its owner calls it"),
        sa.Column("budget_usd_per_hour", sa.Numeric(), nullable=False, comment="Most that any clock hour may cost, in USD"),
        sa.Column("price_per_usd", sa.REAL(), server_default=sa.text("0"), nullable=False, comment="Quality that a dollar must buy now; 0 = money is plenty"),
        sa.Column("paced_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the price last moved"),
        sa.Column("source", sa.Text(), nullable=False, comment="File that its lines were taken from, - for a pipe"),
        sa.Column("lines_taken", sa.BigInteger(), server_default=sa.text("0"), nullable=False, comment="Lines of that file that are done with"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("budget_usd_per_hour > 0", name="streams_budget"),
        sa.CheckConstraint("price_per_usd >= 0", name="streams_price"),
        sa.CheckConstraint("lines_taken >= 0", name="streams_lines"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", name="streams_name"),
        comment="Endless submissions, paced by a budget an hour",
    )
    op.create_table(
        "stream_batches",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("stream_id", sa.Uuid(), nullable=False, comment="Its stream"),
        sa.Column("submitted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When its budget was allotted"),
        sa.Column("target_usd", sa.REAL(), nullable=False, comment="Its share of the hour's budget, in USD"),
        sa.Column("priced_at", sa.DateTime(timezone=True), nullable=True, comment="When its plan moved the stream's price"),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True, comment="When it was seen to be over and idle"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id"),
        comment="Batches of streams; the budget of each was allotted to it",
    )
    op.create_index("ix_stream_batches_stream_id", "stream_batches", ["stream_id"])


def downgrade() -> None:
    op.drop_table("stream_batches")
    op.drop_table("streams")
