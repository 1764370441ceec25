"""Workers report that they live, so that a batch can say what it waits for.

Revision ID: 0020
Revises: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False, comment="Role, host and process, as shards name their owner"),
        sa.Column("role", sa.Text(), nullable=False, comment="scorer, dispatcher or beat"),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When it reported first"),
        sa.Column("seen_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When it reported last"),
        sa.CheckConstraint("role IN ('scorer', 'dispatcher', 'beat')", name="workers_role"),
        sa.PrimaryKeyConstraint("name"),
        comment="Worker processes; one that was killed stays until a day has passed",
    )


def downgrade() -> None:
    op.drop_table("workers")
