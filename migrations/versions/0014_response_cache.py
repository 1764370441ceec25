"""Answers are kept for later batches.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "response_cache",
        sa.Column("key", sa.LargeBinary(), nullable=False, comment="Digest of model and request"),
        sa.Column("model", sa.Text(), nullable=False, comment="Candidate model that answered"),
        sa.Column("answer", sa.Text(), nullable=False, comment="Text of its first choice"),
        sa.Column("response", sa.JSON(), nullable=False, comment="The whole response"),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False, comment="Of the call that answered"),
        sa.Column("completion_tokens", sa.Integer(), nullable=False, comment="Of the call that answered"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False, comment="Not given out after this"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("octet_length(key) = 32", name="response_cache_key"),
        sa.PrimaryKeyConstraint("key"),
        comment="Answers kept for later batches, by model and request",
    )
    op.create_index("response_cache_expiry", "response_cache", ["expires_at"])


def downgrade() -> None:
    op.drop_table("response_cache")
