"""Shards that wait for endpoints or money say for which, so that they are due when it comes.

Revision ID: 0033
Revises: 0032
"""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("shards", sa.Column("waits_for", sa.ARRAY(sa.Text()), nullable=True, comment="Endpoints that it was put off for, by their keys; null = for none and no money"))
    op.add_column("shards", sa.Column("waits_usd", sa.Numeric(), nullable=True, comment="Money in USD that it was put off for; null = for none"))
    op.create_index("shards_put_off", "shards", ["batch_id"], postgresql_where=sa.text("waits_for IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("shards_put_off", "shards")
    op.drop_column("shards", "waits_usd")
    op.drop_column("shards", "waits_for")
