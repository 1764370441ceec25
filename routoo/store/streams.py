"""Streams: an hour's budget allotted to batches, and the price that paces it.

A batch of a stream gets a budget of its own, and its ledger keeps it. So an hour's budget holds if
what its batches have spent and what they may still spend don't exceed it together. Both are read
from the ledgers and the attempts each time, under a lock on the stream: there is no second record
that could disagree with them.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.rows import class_row

from routoo.errors import NotFoundError
from routoo.store import columns


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as the store knows it."""

    id: UUID
    name: str
    budget_usd_per_hour: Decimal
    price_per_usd: float
    """Quality that a dollar must buy; 0 while money is plenty."""
    paced_at: datetime
    source: str
    lines_taken: int
    """Lines of the source that need not be read again."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What the batches of a stream take of an hour's budget, in USD."""

    most_usd: Decimal
    """Spent in the hour, and what may still be spent."""
    expected_usd: Decimal
    """The same as planned: what a batch is expected to cost instead of its whole budget."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What a batch of the stream was selected for."""

    quality: float
    """Expected good answers."""
    cost_usd: float
    """Expected cost of all its calls, in USD."""
    target_usd: float
    """Its share of the budget, in USD."""


_COLUMNS = columns.listed(columns.names(Stream))


async def open_stream(
    conn: AsyncConnection, name: str, source: str, budget_usd_per_hour: Decimal
) -> Stream:
    """Make a stream, or go on with the one of this name; lines are counted anew for a new source.

    The budget given holds from now on.
    """
    async with conn.cursor(row_factory=class_row(Stream)) as cursor:
        await cursor.execute(
            f"""
            INSERT INTO streams (id, name, source, budget_usd_per_hour) VALUES (%s, %s, %s, %s)
            ON CONFLICT (name) DO UPDATE SET source = excluded.source,
                budget_usd_per_hour = excluded.budget_usd_per_hour,
                lines_taken = CASE WHEN streams.source = excluded.source
                                   THEN streams.lines_taken ELSE 0 END
            RETURNING {_COLUMNS}
            """.encode(),
            [uuid4(), name, source, budget_usd_per_hour],
        )
        return await cursor.fetchone()  # type: ignore[return-value]  # RETURNING gives a row


async def lock(conn: AsyncConnection, stream_id: UUID) -> tuple[Stream, datetime]:
    """Return a stream and the time; until the transaction ends nobody else allots its money."""
    found = await columns.select(conn, Stream, "streams WHERE id = %s FOR UPDATE", [stream_id])
    # Asked once the lock is held: waiting for it may have taken us into another hour.
    row = await (await conn.execute("SELECT clock_timestamp()")).fetchone()
    if not found or row is None:
        raise NotFoundError("there is no such stream", value=str(stream_id))
    return found[0], row[0]


# A batch that is over can spend nothing more once no worker holds a shard and no call is unsettled.
_END = """
UPDATE stream_batches s SET ended_at = %(now)s
FROM batches b JOIN ledgers l ON l.batch_id = b.id
WHERE s.stream_id = %(stream)s AND s.ended_at IS NULL AND b.id = s.batch_id
  AND b.status IN ('completed', 'failed', 'cancelled') AND l.reserved_usd = 0
  AND NOT EXISTS (SELECT FROM shards WHERE batch_id = b.id AND state = 'leased')
"""
_CLAIMS = """
SELECT coalesce(sum(CASE WHEN ended THEN booked ELSE most END - before), 0),
       coalesce(sum(CASE WHEN ended THEN booked
                    ELSE least(most, greatest(booked, coalesce(planned, most))) END - before), 0)
FROM (
    SELECT s.ended_at IS NOT NULL AS ended, l.spent_usd + l.overrun_usd AS booked,
           greatest(l.limit_usd, l.spent_usd + l.overrun_usd) AS most,
           (b.plan ->> 'expected_cost_usd')::numeric AS planned,
           CASE WHEN s.submitted_at >= %(hour)s THEN 0 ELSE
               (SELECT coalesce(sum(cost_usd), 0) FROM attempts a
                WHERE a.batch_id = s.batch_id AND a.created_at < %(hour)s) END AS before
    FROM stream_batches s JOIN ledgers l USING (batch_id) JOIN batches b ON b.id = s.batch_id
    WHERE s.stream_id = %(stream)s AND (s.ended_at IS NULL OR s.ended_at >= %(hour)s)
) AS batch
"""


async def claims(conn: AsyncConnection, stream: Stream, hour: datetime, now: datetime) -> Claims:
    """Return what the stream's batches spent in an hour and may still spend, together.

    Args:
        conn: The transaction that locked the stream.
        stream: The stream.
        hour: Start of the clock hour that runs.
        now: The present instant.
    """
    values = {"stream": stream.id, "hour": hour, "now": now}
    await conn.execute(_END, values)
    row = await (await conn.execute(_CLAIMS, values)).fetchone()
    return Claims(Decimal(row[0]), Decimal(row[1])) if row else Claims(Decimal(0), Decimal(0))


async def take_plans(conn: AsyncConnection, stream: Stream) -> list[GroupPlan]:
    """Return the plans that have not moved the price yet, once each.

    Args:
        conn: The transaction that locked the stream.
        stream: The stream.
    """
    cursor = await conn.execute(
        """
        UPDATE stream_batches s SET priced_at = clock_timestamp() FROM batches b
        WHERE s.stream_id = %s AND s.priced_at IS NULL AND b.id = s.batch_id AND b.plan IS NOT NULL
        RETURNING (b.plan ->> 'served')::float * (b.plan ->> 'expected_quality')::float,
                  (b.plan ->> 'expected_cost_usd')::float, s.target_usd
        """,
        [stream.id],
    )
    return [GroupPlan(*row) async for row in cursor]


async def set_price(conn: AsyncConnection, stream: Stream, price_per_usd: float) -> None:
    """Keep a new price, in the transaction that locked the stream."""
    await conn.execute(
        "UPDATE streams SET price_per_usd = %s WHERE id = %s", [price_per_usd, stream.id]
    )


async def add_batch(
    conn: AsyncConnection, stream: Stream, batch_id: UUID, target_usd: float
) -> None:
    """Count a batch, submitted in this transaction, among the stream's."""
    await conn.execute(
        "INSERT INTO stream_batches (batch_id, stream_id, target_usd) VALUES (%s, %s, %s)",
        [batch_id, stream.id, target_usd],
    )


async def advance(conn: AsyncConnection, stream: Stream, lines_taken: int) -> None:
    """Note how far the source was read, in the transaction that submitted what was read."""
    await conn.execute(
        "UPDATE streams SET lines_taken = %s, paced_at = clock_timestamp() WHERE id = %s",
        [lines_taken, stream.id],
    )


async def is_planned(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Return whether a batch has its plan, or is over without one."""
    cursor = await conn.execute(
        """
        SELECT plan IS NOT NULL OR status IN ('completed', 'failed', 'cancelled')
        FROM batches WHERE id = %s
        """,
        [batch_id],
    )
    row = await cursor.fetchone()
    return bool(row and row[0])
