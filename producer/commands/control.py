"""`routoo-producer cancel` and `pause`: say what becomes of a batch."""

import asyncio
from typing import Annotated

import typer

from producer.commands.options import JsonOption, NamedBatch
from producer.json_text import json_line
from producer.notice import note
from producer.progress import Snapshot, find_batch, take_snapshot
from producer.running import run
from routoo.domain.job import BatchStatus, ResultStatus
from routoo.settings import load_settings
from routoo.store.batches import control
from routoo.store.database import Database

CANCEL_EXAMPLES = (
    "\b\nFor example:\n  routoo-producer cancel monday\n  routoo-producer cancel 3f2a --no-wait\n"
)
PAUSE_EXAMPLES = "\b\nFor example:\n  routoo-producer pause monday\n"
_POLL_S = 0.3
_ON_INTERRUPT = "The batch is being cancelled all the same; `routoo-producer status` shows it."


def cancel_command(
    batch: NamedBatch,
    *,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Stay until the calls in flight have ended.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Cancel a batch: no new call starts, answers so far are kept, the rest ends as cancelled.

    Calls in flight are awaited and paid for. Works with no worker alive, too: calls that a dead
    worker left count at their worst case once its lease has run out. A batch that is over stays as
    it is.
    """

    async def cancel(database: Database) -> Snapshot:
        async with database.transaction() as conn:
            record = await find_batch(conn, batch)
            before = await control.cancel(conn, record.id)
        if before in {BatchStatus.COMPLETED, BatchStatus.CANCELLED}:
            note(f"the batch is {before} already: nothing was cancelled")
        while True:
            async with database.transaction() as conn:
                await control.end_cancelled(conn, record.id)
            async with database.transaction() as conn:
                snapshot = await take_snapshot(conn, record)
            if snapshot.is_over or not wait:
                return snapshot
            await asyncio.sleep(_POLL_S)

    tell(run(load_settings(), cancel, on_interrupt=_ON_INTERRUPT), as_json=as_json)


def pause_command(batch: NamedBatch, *, as_json: JsonOption = False) -> None:
    """Pause a batch: no new call starts, calls in flight end and are kept.

    Deadlines go on: a job whose deadline passes meanwhile ends as expired.
    """

    async def pause(database: Database) -> Snapshot:
        async with database.transaction() as conn:
            record = await find_batch(conn, batch)
            await control.pause(conn, record.id)
            return await take_snapshot(conn, record)

    tell(run(load_settings(), pause), as_json=as_json)


def tell(snapshot: Snapshot, *, as_json: bool) -> None:
    """Print where the batch is now."""
    if as_json:
        typer.echo(json_line(snapshot.as_json()))
        return
    now = snapshot.progress
    answered = f"{snapshot.succeeded:,} of {now.jobs:,} jobs answered"
    cancelled = now.results[ResultStatus.CANCELLED]
    rest = f", {cancelled:,} cancelled" if cancelled else ""
    typer.echo(f"{now.status}: {answered}{rest}")
