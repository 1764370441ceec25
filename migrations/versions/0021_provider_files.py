"""The input file of a provider's batch is kept, so that it is uploaded once.

Revision ID: 0021
Revises: 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "provider_batches",
        sa.Column("file_id", sa.Text(), nullable=True, comment="The provider's key of its input file"),
    )


def downgrade() -> None:
    op.drop_column("provider_batches", "file_id")
