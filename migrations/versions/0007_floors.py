"""Margins of batches whose quality floors hold with confidence.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "floors",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("margins", sa.ARRAY(sa.REAL()), nullable=False, comment="Taken off predicted quality, in pool order"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id"),
        comment="Margins of batches whose quality floors hold with confidence",
    )


def downgrade() -> None:
    op.drop_table("floors")
