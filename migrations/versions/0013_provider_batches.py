"""Jobs can go through providers' batch APIs, and a shard can wait.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("shards", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True, comment="A ready shard waits until then; null = it does not"))
    op.create_table(
        "provider_batches",
        sa.Column("marker", sa.Uuid(), nullable=False, comment="Our key of it, in its metadata there"),
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("shard_no", sa.Integer(), nullable=False, comment="Dispatch shard whose rows these are"),
        sa.Column("model", sa.Text(), nullable=False, comment="Candidate: a model's batch channel"),
        sa.Column("state", sa.Text(), server_default=sa.text("'prepared'"), nullable=False, comment="prepared, created or closed"),
        sa.Column("provider_id", sa.Text(), nullable=True, comment="The provider's key of it"),
        sa.Column("provider_status", sa.Text(), nullable=True, comment="The provider's word for it"),
        sa.Column("create_tried_at", sa.DateTime(timezone=True), nullable=True, comment="When the provider was last asked to create it"),
        sa.Column("cancel_asked", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="The provider was asked to cancel it"),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True, comment="When its last row was settled"),
        sa.Column("error", sa.Text(), nullable=True, comment="What went wrong with it last"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("state IN ('prepared', 'created', 'closed')", name="provider_batches_state"),
        sa.CheckConstraint("state <> 'created' OR provider_id IS NOT NULL", name="provider_batches_created"),
        sa.PrimaryKeyConstraint("marker"),
        comment="Batches at providers' batch APIs",
    )
    op.create_index("provider_batches_shard", "provider_batches", ["batch_id", "shard_no"])
    op.create_table(
        "provider_rows",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("attempt_no", sa.Integer(), nullable=False, comment="Call of the job, from 1"),
        sa.Column("marker", sa.Uuid(), nullable=False, comment="The provider's batch that holds it"),
        sa.PrimaryKeyConstraint("batch_id", "job_no", "attempt_no"),
        comment="Calls that go through providers' batches",
    )
    op.create_index("provider_rows_marker", "provider_rows", ["marker"])


def downgrade() -> None:
    op.drop_table("provider_rows")
    op.drop_table("provider_batches")
    op.drop_column("shards", "not_before")
