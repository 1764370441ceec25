"""Evaluation sets, runs, schedules, alerts, and the registry of checkpoints.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the checkpoint"),
        sa.Column("path", sa.Text(), nullable=False, comment="Folder, the same on every scorer"),
        sa.Column("weights_sha256", sa.Text(), nullable=False, comment="Hash of its weights file"),
        sa.Column("manifest", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="Backbone, models, training data, figures"),
        sa.Column("registered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("weights_sha256", name="checkpoints_weights"),
        comment="Predictor checkpoints, with the figures they were registered with",
    )
    op.create_table(
        "eval_sets",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the version"),
        sa.Column("name", sa.Text(), nullable=False, comment="What its owner calls it"),
        sa.Column("content_sha256", sa.Text(), nullable=False, comment="Hash over all items, references and graders"),
        sa.Column("purpose", sa.Text(), server_default=sa.text("'evaluation'"), nullable=False, comment="evaluation: never trained on; training: collects outcomes"),
        sa.Column("item_count", sa.Integer(), nullable=False, comment="Items in the set"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("purpose IN ('evaluation', 'training')", name="eval_sets_purpose"),
        sa.CheckConstraint("item_count > 0", name="eval_sets_item_count"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", "content_sha256", name="eval_sets_version"),
        comment="Versions of evaluation sets; unchanging once written",
    )
    op.create_table(
        "schedules",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the schedule"),
        sa.Column("name", sa.Text(), nullable=False, comment="What its owner calls it"),
        sa.Column("eval_set", sa.Text(), nullable=False, comment="Name of the evaluation set; its newest version is run"),
        sa.Column("cron", sa.Text(), nullable=False, comment="Five fields: minute, hour, day, month, weekday"),
        sa.Column("time_zone", sa.Text(), nullable=False, comment="IANA name of the zone that the cron fields are meant in"),
        sa.Column("missed", sa.Text(), nullable=False, comment="What becomes of firings nobody was there for: run-once or skip"),
        sa.Column("pool", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="Candidate models with the prices of that day"),
        sa.Column("budget_usd", sa.Numeric(), nullable=True, comment="Most that a run may cost, in USD"),
        sa.Column("sample_size", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Items that every candidate answers"),
        sa.Column("sample_budget_usd", sa.Numeric(), nullable=True, comment="Most that those answers may cost, in USD"),
        sa.Column("judge", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="Model that judges, and the most its calls may cost"),
        sa.Column("rollback", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Whether worse quality brings the previous checkpoint back"),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Whether it fires not"),
        sa.Column("next_due_at", sa.DateTime(timezone=True), nullable=False, comment="The next instant to fire at"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.CheckConstraint("missed IN ('run-once', 'skip')", name="schedules_missed"),
        sa.CheckConstraint("budget_usd >= 0", name="schedules_budget"),
        sa.CheckConstraint("sample_budget_usd >= 0", name="schedules_sample_budget"),
        sa.CheckConstraint("sample_size >= 0", name="schedules_sample_size"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", name="schedules_name"),
        comment="Evaluation runs to make again and again",
    )
    op.create_table(
        "checkpoint_promotions",
        sa.Column("promotion_no", sa.Integer(), sa.Identity(always=True), nullable=False, comment="Order of promotions"),
        sa.Column("checkpoint_id", sa.Uuid(), nullable=False, comment="The checkpoint"),
        sa.Column("reason", sa.Text(), nullable=False, comment="promoted, rolled back, or trained from runs; and why"),
        sa.Column("promoted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.ForeignKeyConstraint(["checkpoint_id"], ["checkpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("promotion_no"),
        comment="Which checkpoint scorers use: the latest row's",
    )
    op.create_table(
        "eval_items",
        sa.Column("eval_set_id", sa.Uuid(), nullable=False, comment="The set"),
        sa.Column("item_no", sa.Integer(), nullable=False, comment="Position in the set, from 0"),
        sa.Column("item_id", sa.Text(), nullable=False, comment="The owner's key, unique in the set"),
        sa.Column("prompt", sa.Text(), nullable=False, comment="What a router sees and a model is asked"),
        sa.Column("text_sha256", sa.Text(), nullable=False, comment="Hash of the normalised prompt: keeps it out of training"),
        sa.Column("dataset", sa.Text(), nullable=True, comment="Where it comes from"),
        sa.Column("subject", sa.Text(), nullable=True, comment="Its domain"),
        sa.Column("answer", sa.Text(), nullable=True, comment="Reference answer"),
        sa.Column("grader", sa.Text(), nullable=True, comment="Name of its grader"),
        sa.Column("grader_options", sa.Text(), nullable=True, comment="The grader's options, JSON"),
        sa.Column("max_tokens", sa.Integer(), nullable=True, comment="Most completion tokens"),
        sa.CheckConstraint("item_no >= 0", name="eval_items_item_no"),
        sa.ForeignKeyConstraint(["eval_set_id"], ["eval_sets.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("eval_set_id", "item_no"),
        sa.UniqueConstraint("eval_set_id", "item_id", name="eval_items_item_id"),
        comment="Items of evaluation sets",
    )
    op.create_index("eval_items_text", "eval_items", ["text_sha256"], unique=False)
    op.create_table(
        "eval_runs",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the run"),
        sa.Column("eval_set_id", sa.Uuid(), nullable=False, comment="The set's version"),
        sa.Column("schedule_id", sa.Uuid(), nullable=True, comment="Schedule that fired it"),
        sa.Column("batch_id", sa.Uuid(), nullable=False, comment="The routed jobs; job_no is item_no"),
        sa.Column(
            "sample_batch_id", sa.Uuid(), nullable=True, comment="Jobs that every candidate answers; job_no is position in sample_items times models plus position in the pool"
        ),
        sa.Column("judge_batch_id", sa.Uuid(), nullable=True, comment="Calls to the judge: two for each answer it compares"),
        sa.Column("mode", sa.Text(), nullable=False, comment="routed, or full: every candidate answers a sample too"),
        sa.Column("recorded", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Answers replayed from recorded outcomes"),
        sa.Column("sample_items", sa.ARRAY(sa.Integer()), server_default="{}", nullable=False, comment="item_no of the sample"),
        sa.Column("judge", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="Model that judges, and the most its calls may cost"),
        sa.Column("checkpoint_sha256", sa.Text(), nullable=True, comment="Weights of the promoted predictor when the run began"),
        sa.Column("state", sa.Text(), server_default=sa.text("'running'"), nullable=False, comment="running, judging, finished or failed"),
        sa.Column("figures", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="Headline figures, once graded"),
        sa.Column("error", sa.Text(), nullable=True, comment="Why it failed"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True, comment="When the last answer was graded"),
        sa.CheckConstraint("mode IN ('routed', 'full')", name="eval_runs_mode"),
        sa.CheckConstraint("state IN ('running', 'judging', 'finished', 'failed')", name="eval_runs_state"),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["eval_set_id"], ["eval_sets.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["judge_batch_id"], ["batches.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["sample_batch_id"], ["batches.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("batch_id", name="eval_runs_batch"),
        comment="Runs over evaluation sets",
    )
    op.create_table(
        "eval_alerts",
        sa.Column("run_id", sa.Uuid(), nullable=False, comment="The run"),
        sa.Column("kind", sa.Text(), nullable=False, comment="quality, cost, calibration, answers or novelty"),
        sa.Column("subject", sa.Text(), nullable=False, comment="Model concerned; empty for the whole run"),
        sa.Column("message", sa.Text(), nullable=False, comment="What was found, for people"),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False, comment="The change and its interval"),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.Column("deliveries", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Webhook calls tried"),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True, comment="When the webhook took it"),
        sa.CheckConstraint("deliveries >= 0", name="eval_alerts_deliveries"),
        sa.ForeignKeyConstraint(["run_id"], ["eval_runs.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "kind", "subject"),
        comment="What runs warn of",
    )
    op.create_table(
        "schedule_firings",
        sa.Column("schedule_id", sa.Uuid(), nullable=False, comment="The schedule"),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False, comment="When it was due"),
        sa.Column("fired_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When a scheduler took it"),
        sa.Column("outcome", sa.Text(), nullable=False, comment="submitted, skipped or failed"),
        sa.Column("missed", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Earlier instants that passed unattended and are not run"),
        sa.Column("run_id", sa.Uuid(), nullable=True, comment="The run, where one was begun"),
        sa.Column("owner", sa.Text(), nullable=False, comment="The scheduler that fired it"),
        sa.Column("detail", sa.Text(), nullable=True, comment="Why it was skipped or failed"),
        sa.CheckConstraint("outcome IN ('submitted', 'skipped', 'failed')", name="schedule_firings_outcome"),
        sa.CheckConstraint("missed >= 0", name="schedule_firings_missed"),
        sa.ForeignKeyConstraint(["run_id"], ["eval_runs.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("schedule_id", "due_at"),
        comment="Firings of schedules: one row an instant, whoever fired it",
    )
    op.alter_column(
        "grades", "score", existing_type=sa.REAL(), nullable=True, comment="1 = right, in [0, 1]; null where the answer is ambiguous", existing_comment="1 = right, in [0, 1]"
    )


def downgrade() -> None:
    op.execute("DELETE FROM grades WHERE score IS NULL")
    op.alter_column(
        "grades", "score", existing_type=sa.REAL(), nullable=False, comment="1 = right, in [0, 1]", existing_comment="1 = right, in [0, 1]; null where the answer is ambiguous"
    )
    op.drop_table("schedule_firings")
    op.drop_table("eval_alerts")
    op.drop_table("eval_runs")
    op.drop_index("eval_items_text", table_name="eval_items")
    op.drop_table("eval_items")
    op.drop_table("checkpoint_promotions")
    op.drop_table("schedules")
    op.drop_table("eval_sets")
    op.drop_table("checkpoints")
