"""A result says where its answer is kept, for want of a better one; schedules keep call options.

Revision ID: 0030
Revises: 0029
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

WITHOUT = "direct, accepted (a probe's answer stands) or escalated (asked after another answer)"
WITH = "direct, accepted (a probe's answer stands), escalated (asked after another answer) or kept (no better one could be had)"


def upgrade() -> None:
    op.drop_constraint("results_decision", "results")
    op.create_check_constraint("results_decision", "results", "decision IN ('direct', 'accepted', 'escalated', 'kept')")
    op.alter_column("results", "decision", comment=WITH, existing_comment=WITHOUT)
    op.add_column("schedules", sa.Column("call_options", JSONB(), nullable=True, comment="How the calls of a run are made; null = the defaults"))


def downgrade() -> None:
    op.drop_column("schedules", "call_options")
    op.execute("UPDATE results SET decision = 'accepted' WHERE decision = 'kept'")
    op.drop_constraint("results_decision", "results")
    op.create_check_constraint("results_decision", "results", "decision IN ('direct', 'accepted', 'escalated')")
    op.alter_column("results", "decision", comment=WITHOUT, existing_comment=WITH)
