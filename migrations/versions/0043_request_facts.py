"""What the selection needs to know of requests is kept beside them, packed by the scorer.

Revision ID: 0043
Revises: 0042
"""

import sqlalchemy as sa
from alembic import op

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "request_facts",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("first_job", sa.Integer(), nullable=False, comment="Number of the first job"),
        sa.Column("job_count", sa.Integer(), nullable=False, comment="Number of consecutive jobs"),
        sa.Column("format", sa.Integer(), nullable=False, comment="Number of the format that the rest is in"),
        sa.Column("columns", sa.LargeBinary(), nullable=False, comment="Tokens, limits, choices, kind and flags of each request"),
        sa.Column("kinds", sa.JSON(), nullable=False, comment="What requests have in common: limits, parts, capabilities"),
        sa.Column("digests", sa.LargeBinary(), nullable=False, comment="A digest of each request with its limits"),
        sa.CheckConstraint("first_job >= 0 AND job_count > 0", name="request_facts_jobs"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id", "first_job"),
        comment="What the selection needs to know of requests, so that it need not read them",
    )
    op.execute("ALTER TABLE request_facts ALTER COLUMN digests SET STORAGE EXTERNAL")


def downgrade() -> None:
    op.drop_table("request_facts")
