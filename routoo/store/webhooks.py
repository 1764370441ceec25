"""Webhooks of batches: written with the batch, claimed when it has ended, and noted when accepted.

Which ends are still to be told follows from the batches themselves: so no crash loses one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from routoo.domain.webhook import Webhook, WebhookEvent
from routoo.store import columns
from routoo.store.encoding import storable

_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class DueWebhook:
    """A webhook of a batch that has ended, and to whom that is to be told, or told again."""

    id: UUID
    batch_id: UUID
    event: WebhookEvent
    url: str
    name: str
    """That of the batch."""
    created_at: datetime
    """When the batch was made."""
    ended_at: datetime
    """When the batch ended."""
    deliveries: int
    """Calls for this end so far."""

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "event", WebhookEvent(self.event))

    @property
    def message_id(self) -> str:
        """The same for every call for this end, another for every other."""
        return f"msg_{self.id.hex}_{round(self.ended_at.timestamp() * 1e6):x}"


@dataclass(frozen=True, slots=True)
class WebhookRecord:
    """A webhook as the store knows it."""

    event: str
    url: str
    deliveries: int
    delivered_at: datetime | None
    next_try_at: datetime | None
    error: str | None

    @property
    def host(self) -> str:
        """The address without what may hold a token."""
        return urlsplit(self.url).netloc


async def add(conn: AsyncConnection, batch_id: UUID, webhooks: Sequence[Webhook]) -> None:
    """Write the webhooks of a batch that is created in this transaction."""
    for one in webhooks:
        values = {"id": uuid4(), "batch_id": batch_id, "event": str(one.event), "url": one.url}
        await conn.execute(columns.insert("batch_webhooks", values), values)


async def copy(conn: AsyncConnection, source_id: UUID, batch_id: UUID) -> None:
    """Give a batch the webhooks of another one."""
    await conn.execute(
        "INSERT INTO batch_webhooks (id, batch_id, event, url)"
        " SELECT gen_random_uuid(), %s, event, url FROM batch_webhooks WHERE batch_id = %s",
        [batch_id, source_id],
    )


# An index has the few rows of which there is something to tell, now or later. A failed batch is
# told of once its calls in flight are settled, or after a quarter of an hour.
_DUE = """
    (SELECT w.id, w.batch_id, w.event, w.url, b.name, b.created_at, b.completed_at AS ended_at,
            CASE WHEN w.ended_at = b.completed_at THEN w.deliveries ELSE 0 END AS deliveries
     FROM batch_webhooks w JOIN batches b ON b.id = w.batch_id
     WHERE (w.ended_at IS NULL OR w.next_try_at IS NOT NULL)
       AND b.status IN ('completed', 'failed', 'cancelled')
       AND (b.submitted_at IS NOT NULL OR NOT b.draft) AND b.completed_at IS NOT NULL
       AND (w.ended_at IS DISTINCT FROM b.completed_at
            OR (w.delivered_at IS NULL AND w.next_try_at <= clock_timestamp()))
       AND (b.status <> 'failed' OR b.completed_at < clock_timestamp() - interval '15 minutes'
            OR NOT EXISTS (SELECT FROM ledgers l WHERE l.batch_id = b.id AND l.reserved_usd > 0))
     ORDER BY b.completed_at LIMIT %s FOR UPDATE OF w SKIP LOCKED) AS due
"""


async def lock_due(conn: AsyncConnection) -> list[DueWebhook]:
    """Return the webhooks that are due, locked until the transaction ends."""
    return await columns.select(conn, DueWebhook, _DUE, [_AT_ONCE])


async def reopen(conn: AsyncConnection, batch_id: UUID) -> None:
    """Have the next end of a batch told, too, which goes on in this transaction."""
    await conn.execute(
        "UPDATE batch_webhooks SET ended_at = NULL, deliveries = 0, next_try_at = NULL,"
        " delivered_at = NULL, error = NULL WHERE batch_id = %s",
        [batch_id],
    )


async def claim(conn: AsyncConnection, due: DueWebhook, *, retry_s: float | None) -> None:
    """Note that a webhook is called now.

    Args:
        conn: The transaction that has locked it.
        due: The webhook.
        retry_s: After how many seconds it is called again unless it accepts; None for never.
    """
    await conn.execute(
        """
        UPDATE batch_webhooks
        SET ended_at = %(ended_at)s, delivered_at = NULL, error = NULL, deliveries = %(deliveries)s,
            next_try_at = clock_timestamp() + make_interval(secs => %(retry_s)s)
        WHERE id = %(id)s
        """,
        {
            "id": due.id,
            "ended_at": due.ended_at,
            "deliveries": due.deliveries + 1,
            "retry_s": retry_s,
        },
    )


async def pass_over(conn: AsyncConnection, due: DueWebhook) -> None:
    """Note that an end is not what a webhook is to be told of."""
    await conn.execute(
        "UPDATE batch_webhooks SET ended_at = %s, deliveries = 0, next_try_at = NULL,"
        " delivered_at = NULL, error = NULL WHERE id = %s",
        [due.ended_at, due.id],
    )


_NOTE = b"""
    UPDATE batch_webhooks
    SET error = %(error)s,
        delivered_at = CASE WHEN %(error)s::text IS NULL THEN clock_timestamp() END,
        next_try_at = CASE WHEN NOT %(gives_up)s THEN next_try_at END
    WHERE id = %(id)s AND ended_at = %(ended_at)s
"""


async def note_answer(
    conn: AsyncConnection, due: DueWebhook, error: str | None, *, gives_up: bool
) -> None:
    """Note whether a call was accepted.

    Args:
        conn: A transaction.
        due: The webhook that was called.
        error: Why it was not; None where it was.
        gives_up: Whether it is not to be called again.
    """
    values = {"id": due.id, "ended_at": due.ended_at, "error": storable(error)}
    await conn.execute(_NOTE, {**values, "gives_up": gives_up or error is None})


async def of_batch(conn: AsyncConnection, batch_id: UUID) -> list[WebhookRecord]:
    """Return the webhooks of a batch."""
    source = "batch_webhooks WHERE batch_id = %s ORDER BY created_at, id"
    return await columns.select(conn, WebhookRecord, source, [batch_id])
