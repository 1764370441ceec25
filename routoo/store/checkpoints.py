"""Registers predictor checkpoints, says which one scorers use, and keeps their judges of answers.

A judge is kept here once, since dispatchers may not see a checkpoint's folder.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from routoo.domain.job import Lease
from routoo.errors import InputError
from routoo.store import columns, leases

_SHORTEST_PREFIX = 4


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A registered checkpoint."""

    id: UUID
    path: str
    """Folder, the same on every scorer."""
    weights_sha256: str
    manifest: dict[str, Any]
    registered_at: datetime


@dataclass(frozen=True, slots=True)
class Promotion:
    """The event that a checkpoint was put into use."""

    promotion_no: int
    weights_sha256: str
    path: str
    reason: str
    promoted_at: datetime


async def register(conn: AsyncConnection, path: str, manifest: dict[str, Any]) -> CheckpointRecord:
    """Register a checkpoint; one whose weights are known keeps its row and gets the new path."""
    plain = orjson.loads(orjson.dumps(manifest))  # a figure that is not known is null, not NaN
    await conn.execute(
        """
        INSERT INTO checkpoints (id, path, weights_sha256, manifest) VALUES (%s, %s, %s, %s)
        ON CONFLICT (weights_sha256) DO UPDATE SET path = excluded.path
        """,
        [uuid4(), path, manifest["weights_sha256"], Jsonb(plain)],
    )
    return await find(conn, manifest["weights_sha256"])


async def find(conn: AsyncConnection, text: str) -> CheckpointRecord:
    """Return a checkpoint by the start of its weights' hash or by its path.

    Raises:
        NotFoundError: None matches.
        InputError: Several do.
    """
    found = await _select(conn, "WHERE path = %s ORDER BY registered_at DESC LIMIT 1", [text])
    if not found and len(text) >= _SHORTEST_PREFIX:
        found = await _select(conn, "WHERE starts_with(weights_sha256, %s) LIMIT 2", [text.lower()])
    if len(found) > 1:
        raise InputError("several checkpoints begin so", value=text, remedy="Give more of the hash")
    remedy = "`routoo checkpoint register FOLDER` adds one"
    return columns.only(found, "checkpoint in the registry", text, remedy=remedy)


async def list_all(conn: AsyncConnection) -> list[CheckpointRecord]:
    """Return every registered checkpoint, newest first."""
    return await _select(conn, "ORDER BY registered_at DESC", [])


async def promoted(conn: AsyncConnection, *, at: datetime | None = None) -> CheckpointRecord | None:
    """Return the checkpoint in use, now or at an instant; None where none was promoted by then."""
    found = await _select(
        conn,
        """
        JOIN checkpoint_promotions p ON p.checkpoint_id = c.id
        WHERE promoted_at <= coalesce(%s::timestamptz, 'infinity')
        ORDER BY promotion_no DESC LIMIT 1
        """,
        [at],
    )
    return found[0] if found else None


async def promote(conn: AsyncConnection, checkpoint: CheckpointRecord, reason: str) -> None:
    """Put a checkpoint into use: scorers load it for the next batch."""
    await _put(conn, checkpoint.id, reason, is_rollback=False)


async def roll_back(
    conn: AsyncConnection, reason: str, *, only_if: str | None = None
) -> CheckpointRecord | None:
    """Undo the latest promotion that was not undone yet.

    Args:
        conn: A transaction.
        reason: Why.
        only_if: Hash of the weights that must be in use; with others nothing is done.

    Returns:
        The checkpoint now in use, None where nothing was done: there is no earlier one.
    """
    # One at a time: two rollbacks at once must not undo the same promotion.
    await conn.execute("LOCK TABLE checkpoint_promotions IN SHARE ROW EXCLUSIVE MODE")
    current = await promoted(conn)
    if current is None or (only_if is not None and current.weights_sha256 != only_if):
        return None
    earlier = (await _standing(conn))[:-1]
    if not earlier:
        return None
    await _put(conn, earlier[-1], reason, is_rollback=True)
    return await promoted(conn)


async def _standing(conn: AsyncConnection) -> list[UUID]:
    """Return the checkpoints whose promotions were not undone, in order."""
    cursor = await conn.execute(
        "SELECT checkpoint_id, is_rollback FROM checkpoint_promotions ORDER BY promotion_no"
    )
    standing: list[UUID] = []
    for checkpoint_id, is_rollback in await cursor.fetchall():
        if is_rollback:
            standing.pop()
        elif standing[-1:] != [checkpoint_id]:
            standing.append(checkpoint_id)
    return standing


async def _put(
    conn: AsyncConnection, checkpoint_id: UUID, reason: str, *, is_rollback: bool
) -> None:
    await conn.execute(
        """
        INSERT INTO checkpoint_promotions (checkpoint_id, reason, is_rollback) VALUES (%s, %s, %s)
        """,
        [checkpoint_id, reason, is_rollback],
    )


async def promotions(conn: AsyncConnection) -> list[Promotion]:
    """Return what was put into use when, newest first."""
    source = """
        checkpoint_promotions p JOIN checkpoints c ON c.id = p.checkpoint_id
        ORDER BY promotion_no DESC
    """
    return await columns.select(conn, Promotion, source, [])


async def _select(
    conn: AsyncConnection, condition: str, values: list[Any]
) -> list[CheckpointRecord]:
    source = f"checkpoints c {condition}"
    return await columns.select(conn, CheckpointRecord, source, values, of="c")


async def keep_judge(conn: AsyncConnection, lease: Lease, content: bytes) -> None:
    """Keep the judge of a batch's answers; the first scorer's stands.

    Args:
        conn: A transaction.
        lease: A score shard of the batch.
        content: The judge of the checkpoint that scores it, as one file.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await leases.fence(conn, lease)
    sha256 = hashlib.sha256(content).hexdigest()
    known = await conn.execute("SELECT FROM judges WHERE content_sha256 = %s", [sha256])
    if known.rowcount == 0:  # megabytes, which are sent once and not with every shard
        await conn.execute(
            "INSERT INTO judges (content_sha256, content) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [sha256, content],
        )
    await conn.execute(
        "INSERT INTO batch_judges (batch_id, content_sha256) VALUES (%s, %s)"
        " ON CONFLICT DO NOTHING",
        [lease.key.batch_id, sha256],
    )


async def judge_sha256(conn: AsyncConnection, batch_id: UUID) -> str | None:
    """Return the hash of the judge of a batch's answers; None where it has none."""
    cursor = await conn.execute(
        "SELECT content_sha256 FROM batch_judges WHERE batch_id = %s", [batch_id]
    )
    row = await cursor.fetchone()
    return None if row is None else str(row[0])


async def judge_content(conn: AsyncConnection, batch_id: UUID) -> bytes | None:
    """Return the judge of a batch's answers as one file; None where it has none."""
    cursor = await conn.execute(
        "SELECT content FROM batch_judges JOIN judges USING (content_sha256) WHERE batch_id = %s",
        [batch_id],
        binary=True,
    )
    row = await cursor.fetchone()
    return None if row is None else bytes(row[0])
