"""Counts of results and calls are kept as they are written: progress reads no million rows.

Revision ID: 0027
Revises: 0026
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# A statement adds a row a group and changes none: writers never wait for each other here.
_COUNT_RESULTS = """
INSERT INTO batch_counts (batch_id, model, status, error_code, reason, results, downgrades, upgrades)
SELECT batch_id, model, status, error_code, reason, {sign} * count(*),
       {sign} * count(*) FILTER (WHERE reason IS NOT NULL AND quality_change < 0),
       {sign} * count(*) FILTER (WHERE reason IS NOT NULL AND quality_change > 0)
FROM {source} GROUP BY batch_id, model, status, error_code, reason
"""
_COUNT_CALLS = """
INSERT INTO batch_counts (batch_id, model, calls, cost_usd)
SELECT batch_id, model, {sign} * count(*), {sign} * sum(cost_usd) FROM {source}
GROUP BY batch_id, model
"""
_FUNCTION = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    {statement};
    RETURN NULL;
END $$
"""
_TRIGGER = """
CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {which} TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION {name}()
"""
_EVENTS = (("INSERT", "NEW", "1", "added"), ("DELETE", "OLD", "-1", "removed"))
_COUNTED = (("results", _COUNT_RESULTS), ("attempts", _COUNT_CALLS))


def upgrade() -> None:
    op.create_table(
        "batch_counts",
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The batch"),
        sa.Column("entry_no", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Tells entries apart"),
        sa.Column("model", sa.Text(), nullable=True, comment="That answered, or was called"),
        sa.Column("status", sa.Text(), nullable=True, comment="How the jobs ended; null in entries of calls"),
        sa.Column("error_code", sa.Text(), nullable=True, comment="Kind of failure"),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why another model than planned answered"),
        sa.Column("results", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Jobs that ended so; below 0 where a retry opened them again"),
        sa.Column("downgrades", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Of these, by a model expected to be worse than the planned one"),
        sa.Column("upgrades", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Of these, by a model expected to be better"),
        sa.Column("calls", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Calls that ended"),
        sa.Column("cost_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False, comment="Of these calls, in USD"),
        sa.Column("first_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the first of them was written"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.PrimaryKeyConstraint("batch_id", "entry_no"),
        comment="How results and calls change their batch's counts; sums are the counts",
    )
    # People look at jobs without an answer by what went wrong.
    op.drop_index("results_unanswered", "results")
    op.create_index("results_unanswered", "results", ["batch_id", "error_code", "job_no"], postgresql_where=sa.text("status <> 'succeeded'"))
    for table, statement in _COUNTED:
        op.execute(statement.format(sign="1", source=table))
        for event, which, sign, word in _EVENTS:
            name = f"count_{word}_{table}"
            op.execute(_FUNCTION.format(name=name, statement=statement.format(sign=sign, source="changed")))
            op.execute(_TRIGGER.format(name=name, event=event, table=table, which=which))
    # What ended before today's rates need: an older instant would only be wrong for a minute.
    op.execute("UPDATE batch_counts SET created_at = now() - interval '1 hour', first_at = b.created_at FROM batches b WHERE b.id = batch_id")


def downgrade() -> None:
    for table, _ in _COUNTED:
        for *_, word in _EVENTS:
            op.execute(f"DROP TRIGGER count_{word}_{table} ON {table}")
            op.execute(f"DROP FUNCTION count_{word}_{table}()")
    op.drop_index("results_unanswered", "results")
    op.create_index("results_unanswered", "results", ["batch_id", "status"], postgresql_where=sa.text("status <> 'succeeded'"))
    op.drop_table("batch_counts")
