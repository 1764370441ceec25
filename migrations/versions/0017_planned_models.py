"""Results say which model was planned, and why another one answered.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

REASONS = "unavailable, rate_limited, denied, budget, cost_cap, content_filter, context_length, truncated, failed, batch_channel, replan"
OLD_VIEW = """
CREATE VIEW batch_results AS
SELECT r.batch_id, r.job_no, j.custom_id, r.status, r.model, r.answer,
       a.expected_quality, g.score AS quality, a.expected_cost_usd, r.cost_usd, r.latency_s,
       r.error_code, r.error_message, r.created_at, r.source
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
# What was expected is that of the model that answered: the dispatcher's own where it was neither
# planned nor chosen by a revision, else that of the latest assignment of this model.
VIEW = """
CREATE OR REPLACE VIEW batch_results AS
SELECT r.batch_id, r.job_no, j.custom_id, r.status, r.model, r.answer,
       coalesce(r.expected_quality, a.expected_quality) AS expected_quality, g.score AS quality,
       coalesce(r.expected_cost_usd, a.expected_cost_usd) AS expected_cost_usd,
       r.cost_usd, r.latency_s, r.error_code, r.error_message, r.created_at, r.source,
       p.model AS planned_model, p.expected_quality AS planned_quality,
       p.expected_cost_usd AS planned_cost_usd, r.reason
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
COMMENT = "COMMENT ON VIEW batch_results IS 'Public: how each job ended, in input order, with what was expected of it'"


def upgrade() -> None:
    op.add_column("results", sa.Column("reason", sa.Text(), nullable=True, comment="Why another model than planned answered; null = the planned one"))
    op.add_column("results", sa.Column("expected_quality", sa.REAL(), nullable=True, comment="Predicted for a model that was not the planned one, in [0, 1]"))
    op.add_column("results", sa.Column("expected_cost_usd", sa.Numeric(), nullable=True, comment="Expected of a call to a model that was not the planned one, in USD"))
    op.create_check_constraint("results_reason", "results", "reason IN (" + ", ".join(f"'{one}'" for one in REASONS.split(", ")) + ")")
    op.create_index("results_deviations", "results", ["batch_id"], postgresql_where=sa.text("reason IS NOT NULL"))
    op.execute(VIEW)


def downgrade() -> None:
    op.execute("DROP VIEW batch_results")
    op.drop_index("results_deviations", "results")
    op.drop_constraint("results_reason", "results")
    op.drop_column("results", "expected_cost_usd")
    op.drop_column("results", "expected_quality")
    op.drop_column("results", "reason")
    op.execute(OLD_VIEW)
    op.execute(COMMENT)
