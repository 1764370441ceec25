"""Answers are kept until it is decided about them, and results say how they came about.

Revision ID: 0022
Revises: 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

OLD_REASONS = "unavailable, rate_limited, denied, budget, cost_cap, content_filter, context_length, truncated, failed, batch_channel, replan"
REASONS = OLD_REASONS + ", invalid"
OLD_VIEW = """
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
VIEW = OLD_VIEW.replace("r.reason\n", "r.reason, r.decision\n")
COMMENT = "COMMENT ON VIEW batch_results IS 'Public: how each job ended, in input order, with what was expected of it'"


def _reasons(words: str) -> str:
    return "reason IN (" + ", ".join(f"'{one}'" for one in words.split(", ")) + ")"


def upgrade() -> None:
    op.add_column("results", sa.Column("decision", sa.Text(), server_default=sa.text("'direct'"), nullable=False, comment="direct, accepted (a probe's answer stands) or escalated (asked after another answer)"))
    op.create_check_constraint("results_decision", "results", "decision IN ('direct', 'accepted', 'escalated')")
    op.drop_constraint("results_reason", "results")
    op.create_check_constraint("results_reason", "results", _reasons(REASONS))
    op.execute(VIEW)
    op.add_column("attempts", sa.Column("probe", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Its answer is judged before it is accepted"))
    op.add_column("attempts", sa.Column("token_probabilities", sa.JSON(), nullable=True, comment="Summary of the log-probabilities of the answer's tokens"))
    op.create_table(
        "kept_answers",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("attempt_no", sa.Integer(), nullable=False, comment="The call that it answered"),
        sa.Column("answer", sa.Text(), nullable=False, comment="Text of its first choice"),
        sa.Column("response", sa.JSON(), nullable=False, comment="The whole response"),
        sa.Column("finish_reason", sa.Text(), nullable=True, comment="Why it ended, as far as the endpoint told"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.PrimaryKeyConstraint("batch_id", "job_no", "attempt_no"),
        comment="Answers that were paid and are not, or not yet, their job's result",
    )
    op.create_table(
        "answer_judgements",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("attempt_no", sa.Integer(), nullable=False, comment="The call that it answered"),
        sa.Column("before", sa.REAL(), nullable=True, comment="Probability that its model is right, by the prompt alone"),
        sa.Column("after", sa.REAL(), nullable=True, comment="Probability that the answer is good; null where none was estimated"),
        sa.Column("threshold", sa.REAL(), nullable=True, comment="Value of the best other model: its quality less its price; null where there is none"),
        sa.Column("price_per_usd", sa.REAL(), nullable=True, comment="Quality that a dollar had to buy"),
        sa.Column("next_model", sa.Text(), nullable=True, comment="The model that was to be asked next; null = none"),
        sa.Column("fault", sa.Text(), nullable=True, comment="Which rule of the job it breaks, and how; null = none"),
        sa.Column("decision", sa.Text(), nullable=False, comment="accepted or escalated"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("decision IN ('accepted', 'escalated')", name="answer_judgements_decision"),
        sa.PrimaryKeyConstraint("batch_id", "job_no", "attempt_no"),
        comment="What was decided about answers that were judged, or broke a rule",
    )


def downgrade() -> None:
    op.drop_table("answer_judgements")
    op.drop_table("kept_answers")
    op.drop_column("attempts", "token_probabilities")
    op.drop_column("attempts", "probe")
    op.execute("DROP VIEW batch_results")
    op.drop_constraint("results_reason", "results")
    op.create_check_constraint("results_reason", "results", _reasons(OLD_REASONS))
    op.drop_constraint("results_decision", "results")
    op.drop_column("results", "decision")
    op.execute(OLD_VIEW)
    op.execute(COMMENT)
