"""Alerts: what runs warn of, and whether the webhook has taken them."""

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

KINDS = ("failed", "quality", "cost", "calibration", "answers", "novelty")
_MOST_PROMPTS = 100_000


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
    """Webhook calls tried."""
    delivered_at: datetime | None


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


async def undelivered(conn: AsyncConnection, most_deliveries: int) -> list[AlertRecord]:
    """Lock the alerts whose next webhook call is due, until the transaction ends.

    The wait after a call that was not taken doubles, from ten seconds on.
    """
    return await _select(
        conn,
        """
        WHERE delivered_at IS NULL AND deliveries < %s
          AND (deliveries = 0
               OR created_at + interval '5 seconds' * (2 ^ deliveries) < clock_timestamp())
        ORDER BY created_at LIMIT 20 FOR UPDATE SKIP LOCKED
        """,
        [most_deliveries],
    )


async def count_delivery(conn: AsyncConnection, alert: AlertRecord, *, taken: bool) -> None:
    """Count a webhook call, and note whether it was taken."""
    await conn.execute(
        """
        UPDATE eval_alerts SET deliveries = deliveries + 1,
            delivered_at = CASE WHEN %s THEN clock_timestamp() END
        WHERE run_id = %s AND kind = %s AND subject = %s
        """,
        [taken, alert.run_id, alert.kind, alert.subject],
    )


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
