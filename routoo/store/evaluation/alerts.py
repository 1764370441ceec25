"""Alerts: what runs warn of, and whether the webhook has taken them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from jaxtyping import Float32
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from routoo.store import columns
from routoo.store.encoding import storable

KINDS = ("failed", "quality", "cost", "calibration", "answers", "novelty")
_MOST_PROMPTS = 100_000
_AT_ONCE = 20


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """An alert as the store knows it."""

    run_id: UUID
    kind: str
    subject: str
    """Model concerned; empty for the whole run."""
    message: str
    facts: dict[str, Any]
    created_at: datetime
    deliveries: int
    """Webhook calls so far."""
    delivered_at: datetime | None

    @property
    def message_id(self) -> str:
        """The same for every call for this alert, another for every other."""
        named = f"{self.run_id} {self.kind} {self.subject}".encode()
        return f"msg_{hashlib.sha256(named).hexdigest()[:32]}"


async def save(
    conn: AsyncConnection,
    run_id: UUID,
    kind: str,
    subject: str,
    message: str,
    facts: dict[str, Any],
) -> None:
    """Keep an alert; the first of a run, kind and subject stands."""
    await conn.execute(
        """
        INSERT INTO eval_alerts (run_id, kind, subject, message, facts)
        VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
        """,
        [run_id, kind, subject, message, Jsonb(facts)],
    )


async def of_run(conn: AsyncConnection, run_id: UUID) -> list[AlertRecord]:
    """Return a run's alerts."""
    return await _select(conn, "WHERE run_id = %s ORDER BY kind, subject", [run_id])


async def lock_due(conn: AsyncConnection) -> list[AlertRecord]:
    """Return the alerts of which the webhook is to be told, locked until the transaction ends."""
    return await _select(
        conn,
        """
        WHERE delivered_at IS NULL AND (deliveries = 0 OR next_try_at <= clock_timestamp())
        ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED
        """,
        [_AT_ONCE],
    )


async def claim(conn: AsyncConnection, alert: AlertRecord, *, retry_s: float | None) -> None:
    """Note that an alert is posted now.

    Args:
        conn: The transaction that has locked it.
        alert: The alert.
        retry_s: After how many seconds it is posted again unless it is accepted; None for never.
    """
    await conn.execute(
        f"""
        UPDATE eval_alerts SET deliveries = %(deliveries)s,
            next_try_at = clock_timestamp() + make_interval(secs => %(retry_s)s)
        WHERE {_KEY}
        """,
        {**_key(alert), "deliveries": alert.deliveries + 1, "retry_s": retry_s},
    )


async def note_answer(
    conn: AsyncConnection, alert: AlertRecord, error: str | None, *, gives_up: bool
) -> None:
    """Note whether a call was accepted.

    Args:
        conn: A transaction.
        alert: The alert that was posted.
        error: Why it was not; None where it was.
        gives_up: Whether it is not to be posted again.
    """
    await conn.execute(
        f"""
        UPDATE eval_alerts SET error = %(error)s,
            delivered_at = CASE WHEN %(error)s::text IS NULL THEN clock_timestamp() END,
            next_try_at = CASE WHEN NOT %(gives_up)s THEN next_try_at END
        WHERE {_KEY}
        """,
        {**_key(alert), "error": storable(error), "gives_up": gives_up or error is None},
    )


_KEY = "run_id = %(run_id)s AND kind = %(kind)s AND subject = %(subject)s"


def _key(alert: AlertRecord) -> dict[str, Any]:
    return {"run_id": alert.run_id, "kind": alert.kind, "subject": alert.subject}


async def traffic_novelty(
    conn: AsyncConnection, since: datetime, until: datetime
) -> Float32[np.ndarray, " prompts"]:
    """Return the novelty of the prompts that users submitted between two instants."""
    cursor = await conn.execute(
        """
        SELECT novelty FROM predictions p JOIN batches b ON b.id = p.batch_id
        WHERE b.kind = 'batch' AND b.created_at >= %s AND b.created_at < %s LIMIT %s
        """,
        [since, until, _MOST_PROMPTS],
    )
    return np.array([row[0] for row in await cursor.fetchall()], np.float32)


async def _select(
    conn: AsyncConnection, condition: str, values: Sequence[Any]
) -> list[AlertRecord]:
    return await columns.select(conn, AlertRecord, f"eval_alerts {condition}", values)
