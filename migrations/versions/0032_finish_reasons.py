"""Results and cached answers say why the answer ended.

Revision ID: 0032
Revises: 0031
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

TABLES = ("results", "response_cache")
OLD_VIEW = """
CREATE OR REPLACE VIEW batch_results AS
SELECT r.batch_id, r.job_no, j.custom_id, r.status, r.model, r.answer,
       coalesce(r.expected_quality, a.expected_quality) AS expected_quality, g.score AS quality,
       coalesce(r.expected_cost_usd, a.expected_cost_usd) AS expected_cost_usd,
       r.cost_usd, r.latency_s, r.error_code, r.error_message, r.created_at, r.source,
       p.model AS planned_model, p.expected_quality AS planned_quality,
       p.expected_cost_usd AS planned_cost_usd, r.reason, r.decision
FROM results r
JOIN jobs j USING (batch_id, job_no)
LEFT JOIN grades g USING (batch_id, job_no)
LEFT JOIN LATERAL (
    SELECT expected_quality, expected_cost_usd FROM assignments s
    WHERE s.batch_id = r.batch_id AND s.job_no = r.job_no
    ORDER BY (s.model = r.model) IS TRUE DESC, revision DESC LIMIT 1
) a ON true
LEFT JOIN LATERAL (
    SELECT model, expected_quality, expected_cost_usd FROM assignments s
    WHERE s.batch_id = r.batch_id AND s.job_no = r.job_no
    ORDER BY revision LIMIT 1
) p ON true
ORDER BY r.batch_id, r.job_no
"""
VIEW = OLD_VIEW.replace("r.decision\n", "r.decision, r.finish_reason\n")
COMMENT = "COMMENT ON VIEW batch_results IS 'Public: how each job ended, in input order, with what was expected of it'"


def upgrade() -> None:
    for table in TABLES:
        op.add_column(table, sa.Column("finish_reason", sa.Text(), nullable=True, comment="Why the answer ended, as far as the endpoint told"))
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW batch_results")
    for table in TABLES:
        op.drop_column(table, "finish_reason")
    op.execute(OLD_VIEW)
    op.execute(COMMENT)
