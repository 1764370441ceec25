"""Identical jobs share an answer; results say where they come from.

Revision ID: 0012
Revises: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

VIEW = """
CREATE OR REPLACE VIEW batch_results AS
SELECT r.batch_id, r.job_no, j.custom_id, r.status, r.model, r.answer,
       a.expected_quality, g.score AS quality, a.expected_cost_usd, r.cost_usd, r.latency_s,
       r.error_code, r.error_message, r.created_at{more}
FROM results r
JOIN jobs j USING (batch_id, job_no)
LEFT JOIN grades g USING (batch_id, job_no)
LEFT JOIN LATERAL (
    SELECT expected_quality, expected_cost_usd FROM assignments s
    WHERE s.batch_id = r.batch_id AND s.job_no = r.job_no
    ORDER BY revision DESC LIMIT 1
) a ON true
ORDER BY r.batch_id, r.job_no
"""
COMMENT = "COMMENT ON VIEW batch_results IS 'Public: how each job ended, in input order, with what was expected of it'"


def upgrade() -> None:
    op.create_table(
        "followers",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("leader_no", sa.Integer(), nullable=False, comment="The job whose answer it shares"),
        sa.CheckConstraint("leader_no < job_no", name="followers_leader"),
        sa.PrimaryKeyConstraint("batch_id", "job_no"),
        comment="Jobs that are not called because an identical one of their batch is",
    )
    op.create_index("followers_by_leader", "followers", ["batch_id", "leader_no"])
    op.add_column("results", sa.Column("source", sa.Text(), server_default=sa.text("'call'"), nullable=False, comment="call, duplicate (shares another job's answer) or cache"))
    op.create_check_constraint("results_source", "results", "source IN ('call', 'duplicate', 'cache')")
    op.execute(VIEW.format(more=", r.source"))


def downgrade() -> None:
    op.execute("DROP VIEW batch_results")
    op.execute(VIEW.format(more=""))
    op.execute(COMMENT)
    op.drop_constraint("results_source", "results")
    op.drop_column("results", "source")
    op.drop_table("followers")
