"""What a checkpoint knows of prompts' tokens is kept with the batches that it scored.

Revision ID: 0023
Revises: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "prompt_factors",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("factors", sa.ARRAY(sa.REAL()), nullable=False, comment="Prompt tokens billed for one estimated, in pool order"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id"),
        comment="What the checkpoint that scored a batch knows of its models' prompt tokens",
    )


def downgrade() -> None:
    op.drop_table("prompt_factors")
