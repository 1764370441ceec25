"""The last calls to a model are found by an index.

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("attempts_by_model", "attempts", ["model", "created_at"])


def downgrade() -> None:
    op.drop_index("attempts_by_model", "attempts")
