"""The ledger keeps money for the cheapest call of each open job.

Revision ID: 0039
Revises: 0038
"""

import sqlalchemy as sa
from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ledgers", sa.Column("fallback_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False, comment="Kept for the cheapest calls of open jobs: the sum of the shards'"))
    op.add_column("shards", sa.Column("fallback_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False, comment="Money that the batch's ledger keeps for the cheapest calls of its open jobs"))


def downgrade() -> None:
    op.drop_column("shards", "fallback_usd")
    op.drop_column("ledgers", "fallback_usd")
