"""Endpoints have accounts that all dispatchers share.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endpoints",
        sa.Column("endpoint", sa.Text(), nullable=False, comment="Base URL, model and name of the key"),
        sa.Column("account", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="Places, windows, breaker"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.PrimaryKeyConstraint("endpoint"),
        comment="Shared limits of endpoints; not public: its content may change any time",
        postgresql_with={"fillfactor": 50},
    )


def downgrade() -> None:
    op.drop_table("endpoints")
