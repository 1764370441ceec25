"""Which worker processes live, and what a batch waits for where none takes its shards."""

from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.job import Stage
from routoo.store import leases

REPORT_INTERVAL_S = 5.0
"""How often a worker reports."""
_SILENT_S = 3 * REPORT_INTERVAL_S
"""A worker that has reported nothing for so long is taken for gone."""
_ROLES = {Stage.SCORE: "scorer", Stage.SELECT: "dispatcher", Stage.DISPATCH: "dispatcher"}


@dataclass(frozen=True, slots=True)
class WorkerWait:
    """A batch that has shards to work on, none of which any worker holds."""

    role: str
    """Role of the workers that could take them: scorer or dispatcher."""
    silent_s: float | None
    """Seconds since a worker of that role reported; None where none is known that was killed."""

    @property
    def is_served(self) -> bool:
        """Whether a worker of that role lives: then it is busy, or about to take a shard."""
        return self.silent_s is not None and self.silent_s < _SILENT_S


async def report(conn: AsyncConnection, name: str, role: str) -> None:
    """Record that a worker lives; rows of workers that are long gone are deleted.

    Args:
        conn: A transaction.
        name: The worker, unique among those alive.
        role: scorer, dispatcher or beat.
    """
    await conn.execute(
        """
        INSERT INTO workers (name, role) VALUES (%s, %s)
        ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp()
        """,
        [name, role],
    )
    await conn.execute("DELETE FROM workers WHERE seen_at < now() - interval '1 day'")


async def remove(conn: AsyncConnection, name: str) -> None:
    """Record that a worker has ended, so that nobody takes it for one that lives."""
    await conn.execute("DELETE FROM workers WHERE name = %s", [name])


async def live_roles(conn: AsyncConnection) -> frozenset[str]:
    """Return the roles of which a worker lives: it has reported lately."""
    cursor = await conn.execute(
        "SELECT DISTINCT role FROM workers"
        " WHERE seen_at > clock_timestamp() - make_interval(secs => %s)",
        [_SILENT_S],
    )
    return frozenset([row[0] async for row in cursor])


async def live_counts(conn: AsyncConnection) -> dict[str, int]:
    """Return how many workers of each role live; roles without one are left out."""
    cursor = await conn.execute(
        "SELECT role, count(*)::int FROM workers"
        " WHERE seen_at > clock_timestamp() - make_interval(secs => %s) GROUP BY role",
        [_SILENT_S],
    )
    return dict(await cursor.fetchall())


async def wait_of(conn: AsyncConnection, batch_id: UUID) -> WorkerWait | None:
    """Return what a batch waits for, None where a worker is at it or nothing can be taken."""
    stage = await leases.untaken_stage(conn, batch_id)
    if stage is None:
        return None
    role = _ROLES[stage]
    cursor = await conn.execute(
        "SELECT extract(epoch FROM clock_timestamp() - max(seen_at))::float FROM workers"
        " WHERE role = %s",
        [role],
    )
    row = await cursor.fetchone()
    return WorkerWait(role, row[0] if row else None)
