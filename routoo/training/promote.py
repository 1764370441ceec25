"""Registers checkpoints and puts them into use, so that a rollback can undo it."""

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
    return await checkpoints.register(conn, *_describe(folder))


async def promote_named(
    conn: AsyncConnection, name: str, reason: str, default: Path
) -> CheckpointRecord:
    """Put the registered checkpoint of a name into use.

    Args:
        conn: A transaction.
        name: Start of its weights' hash, or its folder.
        reason: Why, for the history.
        default: What scorers use while none is promoted.

    Raises:
        NotFoundError: No such checkpoint is registered.
        CheckpointError: The folder holds another checkpoint by now, which scorers would refuse.
    """
    found = await checkpoints.find(conn, _registered_name(name))
    _check_unchanged(found)
    await promote_checkpoint(conn, found, reason, default)
    return found


def _check_unchanged(registered: CheckpointRecord) -> None:
    held = read_manifest(Path(registered.path)).weights_sha256
    if held != registered.weights_sha256:
        raise CheckpointError(
            "the folder holds another checkpoint now",
            where=registered.path,
            value=held[:12],
            remedy="Register it anew",
        )


async def promote_checkpoint(
    conn: AsyncConnection, checkpoint: CheckpointRecord, reason: str, default: Path
) -> None:
    """Put a checkpoint into use.

    The first promotion records the checkpoint that scorers have used so far, too: a rollback would
    have nothing to go back to otherwise.

    Args:
        conn: A transaction.
        checkpoint: The one to use from the next batch on.
        reason: Why, for the history.
        default: What scorers use while none is promoted; it may hold no checkpoint.
    """
    if await checkpoints.promoted(conn) is None:
        try:
            before = await register_folder(conn, default)
        except CheckpointError:
            before = checkpoint
        if before.id != checkpoint.id:
            await checkpoints.promote(conn, before, _UNTIL_NOW)
    await checkpoints.promote(conn, checkpoint, reason)


def _registered_name(name: str) -> str:
    """Return a folder's name as it was registered, absolute; another name as it is."""
    folder = Path(name)
    return str(folder.resolve()) if folder.is_dir() else name


def _describe(folder: Path) -> tuple[str, dict[str, Any]]:
    return str(folder.resolve()), asdict(read_manifest(folder))
