"""Probes, whose answer is judged before it is accepted; judges of answers; rules for answers.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("validators", sa.JSON(), nullable=True, comment="Rules that the answer must keep; null = none of its own"))
    op.add_column("assignments", sa.Column("probe", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Its answer is judged, and another model may be asked"))
    op.add_column("assignments", sa.Column("escalation_chance", sa.REAL(), server_default=sa.text("0"), nullable=False, comment="Probability that another model is asked after a probe"))
    op.alter_column("assignments", "expected_cost_usd", comment="Expected cost of the call, or of both calls of a probe, in USD")
    op.create_check_constraint("assignments_escalation", "assignments", "escalation_chance BETWEEN 0 AND 1 AND (probe OR escalation_chance = 0)")
    op.create_table(
        "judges",
        sa.Column("content_sha256", sa.Text(), nullable=False, comment="Hash of the content"),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="The judge as one file"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.PrimaryKeyConstraint("content_sha256"),
        comment="Judges of answers, for those that can't see the checkpoint's folder",
    )
    op.create_table(
        "batch_judges",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("content_sha256", sa.Text(), nullable=False, comment="The judge of the checkpoint that scored it"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["content_sha256"], ["judges.content_sha256"]),
        sa.PrimaryKeyConstraint("batch_id"),
        comment="Which judge judges a batch's answers",
    )


def downgrade() -> None:
    op.drop_table("batch_judges")
    op.drop_table("judges")
    op.drop_constraint("assignments_escalation", "assignments")
    op.alter_column("assignments", "expected_cost_usd", comment="Expected cost of the call, in USD")
    op.drop_column("assignments", "escalation_chance")
    op.drop_column("assignments", "probe")
    op.drop_column("jobs", "validators")
