"""Re-plans: the select stage of a running batch done again, and the history of why.

A request reopens the batch's select shard; the worker that claims it decides anew for the jobs that
are not under way. A crash in between leaves the request open, and the next owner decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from routoo.domain.job import BatchStatus, Lease
from routoo.store import batches, columns, leases
from routoo.store.encoding import storable

FIRST_REVISION = 1
"""Of the plan that the batch started with."""


@dataclass(frozen=True, slots=True)
class Replan:
    """One revision of a batch's plan."""

    revision: int
    """From 2: the batch's first plan is revision 1."""
    reason: str
    requested_at: datetime
    decided_at: datetime | None
    """None while no worker has decided."""
    moved: int | None
    """Jobs whose model changed."""
    before: dict[str, Any] | None
    """What was expected of the jobs concerned."""
    after: dict[str, Any] | None
    """What is expected of them now."""


_REOPEN_SELECTION = b"""
    UPDATE shards SET state = 'ready', attempts = 0, error = NULL
    WHERE batch_id = %s AND stage = 'select' AND state = 'done'
"""
_REQUEST = b"""
    INSERT INTO replans (batch_id, revision, reason)
    SELECT %(id)s, coalesce(max(revision), %(first)s) + 1, %(reason)s
    FROM replans WHERE batch_id = %(id)s
"""


async def request(conn: AsyncConnection, batch_id: UUID, reason: str) -> bool:
    """Have the jobs of a running batch that are not under way selected anew.

    Args:
        conn: A transaction.
        batch_id: The batch.
        reason: Why, for people.

    Returns:
        Whether it was asked for; false where the batch is not selected yet, is being selected
        anyway, or doesn't run.

    Raises:
        NotFoundError: There is no such batch.
    """
    if await batches.lock(conn, batch_id) is not BatchStatus.IN_PROGRESS:
        return False
    cursor = await conn.execute(_REOPEN_SELECTION, [batch_id])
    if cursor.rowcount == 0:
        return False
    await conn.execute(
        _REQUEST, {"id": batch_id, "first": FIRST_REVISION, "reason": storable(reason)}
    )
    return True


async def open_request(conn: AsyncConnection, batch_id: UUID) -> Replan | None:
    """Return the request that waits for a decision, if there is one."""
    found = await _select(conn, batch_id, "AND decided_at IS NULL")
    return found[0] if found else None


async def history(conn: AsyncConnection, batch_id: UUID) -> list[Replan]:
    """Return all revisions after the first, in order."""
    return await _select(conn, batch_id, "")


async def latest_revision(conn: AsyncConnection, batch_id: UUID) -> int:
    """Return the revision of the plan that holds now; one look-up by key."""
    cursor = await conn.execute(
        """
        SELECT coalesce(max(revision), %s) FROM replans
        WHERE batch_id = %s AND decided_at IS NOT NULL
        """,
        [FIRST_REVISION, batch_id],
    )
    row = await cursor.fetchone()
    return row[0] if row else FIRST_REVISION


_DECIDE = b"""
    UPDATE replans SET decided_at = clock_timestamp(), moved = %s, before = %s, after = %s
    WHERE batch_id = %s AND revision = %s
"""


async def decide(
    conn: AsyncConnection,
    lease: Lease,
    request_: Replan,
    moved: int,
    expected: tuple[Mapping[str, Any], Mapping[str, Any]],
) -> None:
    """Close a request, in the transaction that saves its assignments.

    Args:
        conn: The transaction.
        lease: The select shard.
        request_: The request.
        moved: Jobs whose model changed.
        expected: What was expected of the jobs concerned before and is now.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    before, after = expected
    await conn.execute(
        _DECIDE, [moved, Jsonb(before), Jsonb(after), lease.key.batch_id, request_.revision]
    )


async def _select(conn: AsyncConnection, batch_id: UUID, condition: str) -> list[Replan]:
    source = f"replans WHERE batch_id = %s {condition} ORDER BY revision"
    return await columns.select(conn, Replan, source, [batch_id])


async def is_settled(conn: AsyncConnection, batch_id: UUID, interval_s: float) -> bool:
    """Return whether every request is decided, the last one at least so many seconds ago."""
    cursor = await conn.execute(
        """
        SELECT coalesce(bool_and(
            coalesce(decided_at < clock_timestamp() - make_interval(secs => %s), false)), true)
        FROM replans WHERE batch_id = %s
        """,
        [interval_s, batch_id],
    )
    row = await cursor.fetchone()
    return bool(row and row[0])


async def running(conn: AsyncConnection) -> list[UUID]:
    """Return batches that are selected and have jobs left to dispatch, oldest first."""
    cursor = await conn.execute("""
        SELECT id FROM batches b WHERE status = 'in_progress' AND plan IS NOT NULL
          AND EXISTS (SELECT FROM shards WHERE batch_id = b.id AND stage = 'dispatch'
                      AND state IN ('ready', 'leased'))
          AND EXISTS (SELECT FROM shards WHERE batch_id = b.id AND stage = 'select'
                      AND state = 'done')
        ORDER BY created_at
    """)
    return [row[0] async for row in cursor]
