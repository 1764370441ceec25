"""Tables of the gateway: its users' keys and their money, files, batches and single calls."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    REAL,
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import Field, SQLModel

from routoo.domain.job import ApiBatchState
from routoo.store.tables.column import NAMES, TIMESTAMP, USD, column, created_at, one_of


def owner() -> Any:
    """Return the column of the key that a row belongs to."""
    key = ForeignKey("api_keys.id")
    comment = "Key that it belongs to; null = the operator's"
    return Field(default=None, sa_column=Column(Uuid(), key, nullable=True, comment=comment))


class ApiKeyRow(SQLModel, table=True):
    """A key that lets a program in; the key itself is not kept."""

    __tablename__ = "api_keys"
    __table_args__ = (
        UniqueConstraint("name", name="api_keys_name"),
        UniqueConstraint("key_sha256", name="api_keys_key_sha256"),
        CheckConstraint(
            "scopes <@ ARRAY['read', 'submit', 'admin'] AND cardinality(scopes) > 0",
            name="api_keys_scopes",
        ),
        {"comment": "Keys of the gateway's users, hashed"},
    )

    id: UUID = column(Uuid(), "Key of the row", primary_key=True)
    name: str = column(Text(), "What people call it")
    key_sha256: str = column(Text(), "SHA-256 of the key: 256 random bits need no slower hash")
    scopes: list[str] = column(NAMES, "What it allows: read, submit, admin")
    created_at: datetime = created_at()
    revoked_at: datetime | None = column(TIMESTAMP, "When it stopped to work", nullable=True)


class KeyLedgerRow(SQLModel, table=True):
    """A key's money: of its batches and its single calls together."""

    __tablename__ = "key_ledgers"
    __table_args__ = (
        CheckConstraint("limit_usd >= 0 AND limit_usd < 'Infinity'", name="key_ledgers_limit"),
        CheckConstraint(
            "reserved_usd >= 0 AND spent_usd >= 0 AND overrun_usd >= 0",
            name="key_ledgers_positive",
        ),
        CheckConstraint(
            "limit_usd IS NULL OR reserved_usd + spent_usd <= limit_usd",
            name="key_ledgers_budget",
        ),
        {"comment": "Money of a key on one day (UTC)", "postgresql_with": {"fillfactor": 50}},
    )

    key_id: UUID = Field(
        sa_column=Column(
            Uuid(),
            ForeignKey("api_keys.id", ondelete="CASCADE"),
            primary_key=True,
            comment="The key",
        )
    )
    limit_usd: Decimal | None = column(USD, "Most it may spend a day; null = none", nullable=True)
    day: date = column(
        Date(), "The day that spent and overrun are of", default="(now() AT TIME ZONE 'UTC')::date"
    )
    reserved_usd: Decimal = column(
        USD, "Worst case of its calls in flight, of whatever day", default="0"
    )
    spent_usd: Decimal = column(USD, "Cost of the calls settled that day", default="0")
    overrun_usd: Decimal = column(
        USD, "What endpoints billed that day beyond the worst case of a call", default="0"
    )


class FileRow(SQLModel, table=True):
    """A file that was uploaded; its bytes are in `file_parts`."""

    __tablename__ = "files"
    __table_args__ = (
        CheckConstraint("size_bytes >= 0", name="files_size"),
        {"comment": "Uploaded files"},
    )

    id: UUID = column(Uuid(), "Key of the file", primary_key=True)
    key_id: UUID | None = owner()
    filename: str = column(Text(), "As its owner calls it")
    purpose: str = column(Text(), "What it is for, in OpenAI's words: batch")
    size_bytes: int | None = column(
        BigInteger(), "Its size; null while it is being uploaded", nullable=True
    )
    sha256: str | None = column(Text(), "Hash of its bytes", nullable=True)
    created_at: datetime = created_at()


class FilePartRow(SQLModel, table=True):
    """A part of a file: so neither an upload nor a download is ever whole in memory."""

    __tablename__ = "file_parts"
    __table_args__ = ({"comment": "Bytes of uploaded files, in parts of about 1 MiB"},)

    file_id: UUID = Field(
        sa_column=Column(
            Uuid(),
            ForeignKey("files.id", ondelete="CASCADE"),
            primary_key=True,
            comment="The file",
        )
    )
    part_no: int = column(Integer(), "Position, from 0", primary_key=True)
    content: bytes = column(LargeBinary(), "The bytes")


class ApiBatchRow(SQLModel, table=True):
    """A batch as the API's user asked for it; once its rows are read it is a batch of this id."""

    __tablename__ = "api_batches"
    __table_args__ = (
        UniqueConstraint("idempotency_key", name="api_batches_idempotency_key"),
        one_of("state", ApiBatchState, "api_batches_state"),
        {"comment": "Batches that came through the gateway"},
    )

    id: UUID = column(Uuid(), "Key of it, and of its batch", primary_key=True)
    key_id: UUID | None = owner()
    input_file_id: UUID = column(Uuid(), "File of its rows; it may be deleted by now")
    endpoint: str = column(Text(), "What its rows ask of, in OpenAI's words")
    completion_window: str = column(Text(), "How long it may take, as it was asked for")
    details: dict[str, Any] = column(JSONB(), "Its metadata, limits and aim among them")
    budget_usd: Decimal | None = column(USD, "Its budget, in USD", nullable=True)
    expires_at: datetime = column(TIMESTAMP, "No call starts after this")
    idempotency_key: str | None = column(
        Text(), "Asked for twice with the same key it is one batch", nullable=True
    )
    state: str = column(
        Text(), "validating, submitted, failed or cancelled", default="'validating'"
    )
    errors: list[dict[str, Any]] | None = column(
        JSONB(), "Why it failed before it was submitted", nullable=True
    )
    bad_rows: int = column(Integer(), "Rows that were left out", default="0")
    bad_rows_file_id: UUID | None = column(Uuid(), "File of those rows", nullable=True)
    deleted_files: list[str] = column(NAMES, "Of output and errors, those deleted", default="'{}'")
    created_at: datetime = created_at()
    ended_at: datetime | None = column(
        TIMESTAMP, "When it failed or was cancelled before it was submitted", nullable=True
    )


class SingleCallRow(SQLModel, table=True):
    """A single completion: its worst case while it is in flight, then what it cost."""

    __tablename__ = "single_calls"
    __table_args__ = (
        CheckConstraint("worst_case_usd >= 0 AND cost_usd >= 0", name="single_calls_money"),
        Index("single_calls_open", "created_at", postgresql_where=text("settled_at IS NULL")),
        {"comment": "Single completions that the gateway called for"},
    )

    id: UUID = column(Uuid(), "Key of the call", primary_key=True)
    key_id: UUID | None = owner()
    model: str = column(Text(), "Candidate model that was asked")
    worst_case_usd: Decimal = column(USD, "Reserved before it was sent, in USD")
    created_at: datetime = created_at()
    settled_at: datetime | None = column(TIMESTAMP, "When it ended", nullable=True)
    status: str | None = column(Text(), "succeeded, failed or lost", nullable=True)
    cost_usd: Decimal | None = column(USD, "What it cost, in USD", nullable=True)
    prompt_tokens: int | None = column(Integer(), "Billed", nullable=True)
    completion_tokens: int | None = column(Integer(), "Billed", nullable=True)
    latency_s: float | None = column(REAL(), "From sending to the answer's end", nullable=True)
    error_code: str | None = column(Text(), "Kind of failure", nullable=True)
