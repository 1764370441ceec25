"""Tables of the gateway: keys of its users, and the money of each key."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import CheckConstraint, Column, Date, ForeignKey, Text, UniqueConstraint, Uuid
from sqlmodel import Field, SQLModel

from routoo.store.tables.column import NAMES, TIMESTAMP, USD, column, created_at


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
