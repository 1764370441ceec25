"""Files, batches and single calls that come through the gateway.

Revision ID: 0029
Revises: 0028
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def _owner() -> sa.Column:
    return sa.Column("key_id", sa.Uuid(), sa.ForeignKey("api_keys.id"), nullable=True, comment="Key that it belongs to; null = the operator's")


def _created_at() -> sa.Column:
    return sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written")


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the file"),
        _owner(),
        sa.Column("filename", sa.Text(), nullable=False, comment="As its owner calls it"),
        sa.Column("purpose", sa.Text(), nullable=False, comment="What it is for, in OpenAI's words: batch"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True, comment="Its size; null while it is being uploaded"),
        sa.Column("sha256", sa.Text(), nullable=True, comment="Hash of its bytes"),
        _created_at(),
        sa.CheckConstraint("size_bytes >= 0", name="files_size"),
        sa.PrimaryKeyConstraint("id"),
        comment="Uploaded files",
    )
    op.create_table(
        "file_parts",
        sa.Column("file_id", sa.Uuid(), nullable=False, comment="The file"),
        sa.Column("part_no", sa.Integer(), nullable=False, comment="Position, from 0"),
        sa.Column("content", sa.LargeBinary(), nullable=False, comment="The bytes"),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("file_id", "part_no"),
        comment="Bytes of uploaded files, in parts of about 1 MiB",
    )
    # Compressing a part takes longer than to write it.
    op.execute("ALTER TABLE file_parts ALTER COLUMN content SET STORAGE EXTERNAL")
    op.create_table(
        "api_batches",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of it, and of its batch"),
        _owner(),
        sa.Column("input_file_id", sa.Uuid(), nullable=False, comment="File of its rows; it may be deleted by now"),
        sa.Column("endpoint", sa.Text(), nullable=False, comment="What its rows ask of, in OpenAI's words"),
        sa.Column("completion_window", sa.Text(), nullable=False, comment="How long it may take, as it was asked for"),
        sa.Column("details", postgresql.JSONB(), nullable=False, comment="Its metadata, limits and aim among them"),
        sa.Column("budget_usd", sa.Numeric(), nullable=True, comment="Its budget, in USD"),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="No call starts after this"),
        sa.Column("idempotency_key", sa.Text(), nullable=True, comment="Asked for twice with the same key it is one batch"),
        sa.Column("state", sa.Text(), server_default=sa.text("'validating'"), nullable=False, comment="validating, submitted, failed or cancelled"),
        sa.Column("errors", postgresql.JSONB(), nullable=True, comment="Why it failed before it was submitted"),
        sa.Column("bad_rows", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Rows that were left out"),
        sa.Column("bad_rows_file_id", sa.Uuid(), nullable=True, comment="File of those rows"),
        sa.Column("deleted_files", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False, comment="Of output and errors, those deleted"),
        _created_at(),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="When it failed or was cancelled before it was submitted"),
        sa.CheckConstraint("state IN ('validating', 'submitted', 'failed', 'cancelled')", name="api_batches_state"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key", name="api_batches_idempotency_key"),
        comment="Batches that came through the gateway",
    )
    op.create_table(
        "single_calls",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the call"),
        _owner(),
        sa.Column("model", sa.Text(), nullable=False, comment="Candidate model that was asked"),
        sa.Column("worst_case_usd", sa.Numeric(), nullable=False, comment="Reserved before it was sent, in USD"),
        _created_at(),
        sa.Column("settled_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="When it ended"),
        sa.Column("status", sa.Text(), nullable=True, comment="succeeded, failed or lost"),
        sa.Column("cost_usd", sa.Numeric(), nullable=True, comment="What it cost, in USD"),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True, comment="Billed"),
        sa.Column("completion_tokens", sa.Integer(), nullable=True, comment="Billed"),
        sa.Column("latency_s", sa.REAL(), nullable=True, comment="From sending to the answer's end"),
        sa.Column("error_code", sa.Text(), nullable=True, comment="Kind of failure"),
        sa.CheckConstraint("worst_case_usd >= 0 AND cost_usd >= 0", name="single_calls_money"),
        sa.PrimaryKeyConstraint("id"),
        comment="Single completions that the gateway called for",
    )
    op.create_index("single_calls_open", "single_calls", ["created_at"], postgresql_where=sa.text("settled_at IS NULL"))


def downgrade() -> None:
    op.drop_table("single_calls")
    op.drop_table("api_batches")
    op.drop_table("file_parts")
    op.drop_table("files")
