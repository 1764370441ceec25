"""Streams: endless submissions, paced by a budget an hour."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import REAL, BigInteger, CheckConstraint, Column, ForeignKey, Text, Uuid
from sqlalchemy import UniqueConstraint as Unique
from sqlmodel import Field, SQLModel

from routoo.store.tables.column import TIMESTAMP, USD, batch_key, column, created_at


class StreamRow(SQLModel, table=True):
    """An endless submission with its budget and its price of a dollar."""

    __tablename__ = "streams"
    __table_args__ = (
        Unique("name", name="streams_name"),
        CheckConstraint("budget_usd_per_hour > 0", name="streams_budget"),
        CheckConstraint("price_per_usd >= 0", name="streams_price"),
        CheckConstraint("lines_taken >= 0", name="streams_lines"),
        {"comment": "Endless submissions, paced by a budget an hour"},
    )

    id: UUID = column(Uuid(), "Key of the stream", primary_key=True)
    name: str = column(Text(), "What its owner calls it")
    budget_usd_per_hour: Decimal = column(USD, "Most that any clock hour may cost, in USD")
    price_per_usd: float = column(
        REAL(), "Quality that a dollar must buy now; 0 = money is plenty", default="0"
    )
    paced_at: datetime = column(TIMESTAMP, "When the price last moved", default="now()")
    source: str = column(Text(), "File that its lines were taken from, - for a pipe")
    lines_taken: int = column(BigInteger(), "Lines of that file that are done with", default="0")
    created_at: datetime = created_at()


class StreamBatchRow(SQLModel, table=True):
    """A batch that a stream submitted."""

    __tablename__ = "stream_batches"
    __table_args__ = ({"comment": "Batches of streams; the budget of each was allotted to it"},)

    batch_id: UUID = batch_key(references=True)
    stream_id: UUID = Field(
        sa_column=Column(
            Uuid(),
            ForeignKey("streams.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
            comment="Its stream",
        )
    )
    submitted_at: datetime = column(TIMESTAMP, "When its budget was allotted", default="now()")
    target_usd: float = column(REAL(), "Its share of the hour's budget, in USD")
    priced_at: datetime | None = column(
        TIMESTAMP, "When its plan moved the stream's price", nullable=True
    )
    ended_at: datetime | None = column(
        TIMESTAMP, "When it was seen to be over and idle", nullable=True
    )
