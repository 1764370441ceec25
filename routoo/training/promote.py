"""Puts a checkpoint into use, so that a rollback can undo it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection

from routoo.errors import CheckpointError
from routoo.predictor.manifest import read_manifest
from routoo.store import checkpoints
from routoo.store.checkpoints import CheckpointRecord

_UNTIL_NOW = "in use as ROUTOO_CHECKPOINT until now"


async def register_folder(conn: AsyncConnection, folder: Path) -> CheckpointRecord:
    """Register the checkpoint that a folder holds.

    Raises:
        CheckpointError: It holds none.
    """
    return await checkpoints.register(conn, *_described(folder))


async def put_into_use(
    conn: AsyncConnection, checkpoint: CheckpointRecord, reason: str, default: Path
) -> None:
    """Promote a checkpoint; before the very first one, the one that scorers have used so far.

    Without it a rollback of the first promotion would have nothing to go back to.

    Args:
        conn: A transaction.
        checkpoint: The one to use from the next batch on.
        reason: Why, for the history.
        default: What scorers use while none is promoted; a folder without a checkpoint is let be.
    """
    if await checkpoints.promoted(conn) is None:
        try:
            before = await register_folder(conn, default)
        except CheckpointError:
            before = checkpoint
        if before.id != checkpoint.id:
            await checkpoints.promote(conn, before, _UNTIL_NOW)
    await checkpoints.promote(conn, checkpoint, reason)


def _described(folder: Path) -> tuple[str, dict[str, Any]]:
    return str(folder.resolve()), asdict(read_manifest(folder))
