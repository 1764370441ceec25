"""The first tables, and the view that users poll.

Revision ID: 0001
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Rows come in input order. `quality` is what a grader gave; the expected figures are those of the
# latest plan, whichever model answered in the end.
BATCH_RESULTS = """
CREATE VIEW batch_results AS
SELECT r.batch_id, r.job_no, j.custom_id, r.status, r.model, r.answer,
       a.expected_quality, g.score AS quality, a.expected_cost_usd, r.cost_usd, r.latency_s,
       r.error_code, r.error_message, r.created_at
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


def upgrade() -> None:
    op.create_table(
        "assignments",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("revision", sa.Integer(), nullable=False, comment="From 1; plans are revised, not rewritten"),
        sa.Column("model", sa.Text(), nullable=False, comment="Name of the candidate model"),
        sa.Column("expected_quality", sa.REAL(), nullable=False, comment="Predicted quality of its answer, in [0, 1]"),
        sa.Column("expected_cost_usd", sa.Numeric(), nullable=False, comment="Expected cost of the call, in USD"),
        sa.CheckConstraint("expected_cost_usd >= 0", name="assignments_cost"),
        sa.CheckConstraint("expected_quality BETWEEN 0 AND 1", name="assignments_quality"),
        sa.PrimaryKeyConstraint("batch_id", "job_no", "revision"),
        comment="Models chosen; the highest revision of a job counts",
    )
    op.create_table(
        "attempts",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("attempt_no", sa.Integer(), nullable=False, comment="Call of the job, from 1"),
        sa.Column("model", sa.Text(), nullable=False, comment="Name of the candidate model"),
        sa.Column("status", sa.Text(), nullable=False, comment="succeeded, failed, or lost in a crash"),
        sa.Column("http_status", sa.Integer(), nullable=True, comment="HTTP status of the answer"),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True, comment="Prompt tokens billed"),
        sa.Column("completion_tokens", sa.Integer(), nullable=True, comment="Completion tokens billed"),
        sa.Column("usage_estimated", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="The answer carried no usage: counts are an upper bound"),
        sa.Column("cost_usd", sa.Numeric(), nullable=False, comment="Tokens times the pool's tariff, in USD"),
        sa.Column("latency_s", sa.REAL(), nullable=True, comment="From request to whole answer"),
        sa.Column("error_code", sa.Text(), nullable=True, comment="Kind of failure"),
        sa.Column("error_message", sa.Text(), nullable=True, comment="What the endpoint said"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("status IN ('succeeded', 'failed', 'lost')", name="attempts_status"),
        sa.CheckConstraint("cost_usd >= 0", name="attempts_cost"),
        sa.PrimaryKeyConstraint("batch_id", "job_no", "attempt_no"),
        comment="Every call made; a lost one counts at its worst case",
    )
    op.create_table(
        "batches",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the batch"),
        sa.Column("name", sa.Text(), nullable=False, comment="What its owner calls it; need not be unique"),
        sa.Column("kind", sa.Text(), server_default=sa.text("'batch'"), nullable=False, comment="batch, or what else it serves"),
        sa.Column("idempotency_key", sa.Text(), nullable=True, comment="A batch submitted twice with the same key is one batch"),
        sa.Column("status", sa.Text(), server_default=sa.text("'in_progress'"), nullable=False, comment="in_progress, completed, failed or cancelled"),
        sa.Column("pool", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="Candidate models with the prices of that day"),
        sa.Column("budget_usd", sa.Numeric(), nullable=True, comment="Most that all calls may cost, in USD"),
        sa.Column("min_quality", sa.REAL(), nullable=True, comment="Least mean predicted quality asked of the batch, in [0, 1]"),
        sa.Column("max_cost_usd", sa.Numeric(), nullable=True, comment="Most that one job may cost where it names no cap, in USD"),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True, comment="No call starts after this"),
        sa.Column("job_count", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Jobs in the batch"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True, comment="When its last job ended"),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="What the selection expected: quality, cost, bound, prices"),
        sa.Column("error", sa.Text(), nullable=True, comment="Why the batch failed, and what to do"),
        sa.CheckConstraint("status IN ('in_progress', 'completed', 'failed', 'cancelled')", name="batches_status"),
        sa.CheckConstraint("budget_usd >= 0", name="batches_budget"),
        sa.CheckConstraint("job_count >= 0", name="batches_job_count"),
        sa.CheckConstraint("max_cost_usd >= 0", name="batches_max_cost"),
        sa.CheckConstraint("min_quality BETWEEN 0 AND 1", name="batches_min_quality"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key", name="batches_idempotency_key"),
        comment="Batches: prompts with limits, submitted as a whole or not at all",
    )
    op.create_table(
        "grades",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("score", sa.REAL(), nullable=False, comment="1 = right, in [0, 1]"),
        sa.Column("grader", sa.Text(), nullable=False, comment="Name of the grader"),
        sa.Column("detail", sa.Text(), nullable=True, comment="What it compared"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("score BETWEEN 0 AND 1", name="grades_score"),
        sa.PrimaryKeyConstraint("batch_id", "job_no"),
        comment="Grades of answers against references",
    )
    op.create_table(
        "jobs",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="Position in the input, from 0"),
        sa.Column("custom_id", sa.Text(), nullable=False, comment="The owner's key, unique in the batch"),
        sa.Column("body", sa.JSON(), nullable=False, comment="The chat-completion request"),
        sa.Column("min_quality", sa.REAL(), nullable=True, comment="Least predicted quality of a model that may answer, in [0, 1]"),
        sa.Column("max_cost_usd", sa.Numeric(), nullable=True, comment="Most that this job's calls may cost together, in USD"),
        sa.Column("max_latency_s", sa.REAL(), nullable=True, comment="Longest expected wait, in seconds"),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True, comment="No call starts after this"),
        sa.CheckConstraint("job_no >= 0", name="jobs_job_no"),
        sa.CheckConstraint("max_cost_usd >= 0", name="jobs_max_cost"),
        sa.CheckConstraint("max_latency_s > 0", name="jobs_max_latency"),
        sa.CheckConstraint("min_quality BETWEEN 0 AND 1", name="jobs_min_quality"),
        sa.PrimaryKeyConstraint("batch_id", "job_no"),
        sa.UniqueConstraint("batch_id", "custom_id", name="jobs_custom_id"),
        comment="Input of a batch; a job's status is derived from results",
    )
    op.create_table(
        "predictions",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("quality", sa.ARRAY(sa.REAL()), nullable=False, comment="Probability of an acceptable answer, in [0, 1]"),
        sa.Column("quality_std", sa.ARRAY(sa.REAL()), nullable=False, comment="Standard deviation of that estimate"),
        sa.Column("completion_tokens", sa.ARRAY(sa.REAL()), nullable=False, comment="Expected length of the answer, in tokens"),
        sa.Column("novelty", sa.REAL(), nullable=False, comment="Distance from the training prompts, 0 to 1"),
        sa.Column("truncated", sa.Boolean(), nullable=False, comment="Scored on head and tail of a long prompt"),
        sa.CheckConstraint("0 <= ALL (completion_tokens)", name="predictions_completion_tokens"),
        sa.CheckConstraint("0 <= ALL (quality) AND 1 >= ALL (quality)", name="predictions_quality"),
        sa.CheckConstraint("0 <= ALL (quality_std)", name="predictions_quality_std"),
        sa.CheckConstraint("cardinality(quality) = cardinality(completion_tokens) AND cardinality(quality) = cardinality(quality_std)", name="predictions_arrays"),
        sa.PrimaryKeyConstraint("batch_id", "job_no"),
        comment="Predictions, arrays in the order of the batch's pool",
    )
    op.create_table(
        "reservations",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("attempt_no", sa.Integer(), nullable=False, comment="Call of the job, from 1"),
        sa.Column("shard_no", sa.Integer(), nullable=False, comment="Dispatch shard that reserved it"),
        sa.Column("model", sa.Text(), nullable=False, comment="Name of the candidate model"),
        sa.Column("worst_case_usd", sa.Numeric(), nullable=False, comment="Most the call can cost, in USD"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("worst_case_usd >= 0", name="reservations_worst_case"),
        sa.PrimaryKeyConstraint("batch_id", "job_no", "attempt_no"),
        comment="Worst case of every call, written before it is sent",
    )
    op.create_table(
        "results",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("job_no", sa.Integer(), nullable=False, comment="The job"),
        sa.Column("status", sa.Text(), nullable=False, comment="succeeded, failed, expired, budget_exhausted or cancelled"),
        sa.Column("model", sa.Text(), nullable=True, comment="Candidate model that answered"),
        sa.Column("answer", sa.Text(), nullable=True, comment="Text of its first choice"),
        sa.Column("response", sa.JSON(), nullable=True, comment="The whole response"),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True, comment="Of the call that answered"),
        sa.Column("completion_tokens", sa.Integer(), nullable=True, comment="Of the call that answered"),
        sa.Column("cost_usd", sa.Numeric(), nullable=False, comment="Of all calls of the job, in USD"),
        sa.Column("latency_s", sa.REAL(), nullable=True, comment="Of the call that answered, in seconds"),
        sa.Column("attempts", sa.Integer(), nullable=False, comment="Calls made for the job"),
        sa.Column("error_code", sa.Text(), nullable=True, comment="Kind of failure"),
        sa.Column("error_message", sa.Text(), nullable=True, comment="What went wrong, and what to do"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("status <> 'succeeded' OR (model IS NOT NULL AND answer IS NOT NULL)", name="results_answer"),
        sa.CheckConstraint("status IN ('succeeded', 'failed', 'expired', 'budget_exhausted', 'cancelled')", name="results_status"),
        sa.CheckConstraint("cost_usd >= 0 AND attempts >= 0", name="results_counts"),
        sa.PrimaryKeyConstraint("batch_id", "job_no"),
        comment="How each job ended: exactly one row a job",
    )
    op.create_table(
        "ledgers",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("limit_usd", sa.Numeric(), nullable=True, comment="The budget; null = none"),
        sa.Column("reserved_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False, comment="Worst case of the calls in flight"),
        sa.Column("spent_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False, comment="Cost of settled calls, within their worst case"),
        sa.Column("overrun_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False, comment="What endpoints billed beyond the worst case of a call"),
        sa.CheckConstraint("limit_usd >= 0 AND limit_usd < 'Infinity'", name="ledgers_limit"),
        sa.CheckConstraint("limit_usd IS NULL OR reserved_usd + spent_usd <= limit_usd", name="ledgers_budget"),
        sa.CheckConstraint("reserved_usd >= 0 AND spent_usd >= 0 AND overrun_usd >= 0", name="ledgers_positive"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id"),
        comment="Money of a batch",
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "shards",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("stage", sa.Text(), nullable=False, comment="score, select or dispatch"),
        sa.Column("shard_no", sa.Integer(), nullable=False, comment="Position in the stage, from 0"),
        sa.Column("first_job", sa.Integer(), nullable=False, comment="First job_no of the slice"),
        sa.Column("job_count", sa.Integer(), nullable=False, comment="Jobs in the slice"),
        sa.Column("state", sa.Text(), nullable=False, comment="blocked, ready, leased, done or parked"),
        sa.Column("owner", sa.Text(), nullable=True, comment="Worker that holds the lease"),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True, comment="After this instant another worker may take the shard over"),
        sa.Column("epoch", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Counts owners; a write of an older one fails"),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Times it was started and not handed back"),
        sa.Column("error", sa.Text(), nullable=True, comment="Why it failed last"),
        sa.CheckConstraint("(state = 'leased') = (owner IS NOT NULL AND lease_expires_at IS NOT NULL)", name="shards_lease"),
        sa.CheckConstraint("stage IN ('score', 'select', 'dispatch')", name="shards_stage"),
        sa.CheckConstraint("state IN ('blocked', 'ready', 'leased', 'done', 'parked')", name="shards_state"),
        sa.CheckConstraint("first_job >= 0 AND job_count > 0", name="shards_slice"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id", "stage", "shard_no"),
        comment="Units of queueing: slices of a batch, a row a stage",
    )
    op.execute(BATCH_RESULTS)
    op.execute("COMMENT ON VIEW batch_results IS 'Public: how each job ended, in input order, with what was expected of it'")


def downgrade() -> None:
    op.execute("DROP VIEW batch_results")
    op.drop_table("shards")
    op.drop_table("ledgers")
    op.drop_table("results")
    op.drop_table("reservations")
    op.drop_table("predictions")
    op.drop_table("jobs")
    op.drop_table("grades")
    op.drop_table("batches")
    op.drop_table("attempts")
    op.drop_table("assignments")
