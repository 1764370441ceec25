"""`routoo-producer status`, `list` and `watch`: a batch's progress, and the newest batches."""

import sys
import time
from typing import TYPE_CHECKING

import typer

from producer.commands.options import BatchArgument, JsonOption, LimitOption, StrictOption
from routoo.console.output import console, json_line, messages
from routoo.console.run import (
    BATCH_FAILED,
    DEVIATED,
    INCOMPLETE,
    run_in_transaction,
    run_with_database,
)
from routoo.domain.job import BatchStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psycopg import AsyncConnection
    from rich.console import Console

    from producer.progress import Snapshot
    from routoo.settings import Settings
    from routoo.store.batches.records import BatchRecord
    from routoo.store.database import Database

_LINE_EVERY_S = 5.0
_LINE_AT_LEAST_EVERY_S = 60.0
_ON_INTERRUPT = "The batch goes on. `routoo-producer watch` shows it again."


def status_command(
    batch: BatchArgument = None, *, as_json: JsonOption = False, strict: StrictOption = False
) -> None:
    """Show the progress of a batch: stages, results, money, models, what is not as planned.

    Examples:
        routoo-producer status
        routoo-producer status 3f2a --json
    """
    from producer.progress import find_batch, take_snapshot
    from routoo.settings import load_settings

    async def status(conn: "AsyncConnection") -> "Snapshot":
        return await take_snapshot(conn, await find_batch(conn, batch))

    snapshot = run_in_transaction(load_settings(), status)
    if as_json:
        typer.echo(json_line(snapshot.as_json()))
    else:
        from producer.screen.progress import progress_view

        console().print(progress_view(snapshot))
    if strict and not snapshot.as_planned:
        raise typer.Exit(DEVIATED)


def list_command(*, limit: LimitOption = 20, as_json: JsonOption = False) -> None:
    """List the newest batches; with --json one object a line.

    Examples:
        routoo-producer list --limit 5
    """
    from routoo.settings import load_settings
    from routoo.store import batches

    found = run_in_transaction(load_settings(), lambda conn: batches.list_recent(conn, limit))
    if as_json:
        for record in found:
            typer.echo(json_line(_facts(record)))
        return
    from producer.screen.progress import batch_table

    console().print(batch_table(found))


def _facts(record: "BatchRecord") -> dict[str, object]:
    return {
        "batch_id": str(record.id),
        "name": record.name,
        "kind": record.kind,
        "status": record.status,
        "jobs": record.job_count,
        "budget_usd": record.budget_usd,
        "created_at": record.created_at,
        "completed_at": record.completed_at,
        "error": record.error,
    }


def watch_command(
    batch: BatchArgument = None, *, as_json: JsonOption = False, strict: StrictOption = False
) -> None:
    """Follow a batch until it is over; Ctrl-C leaves it running.

    Where the output is no terminal, a line is printed every few seconds, later every minute; with
    --json one object a line. Exit status: 0 when every job has an answer, 5 when some have none, 8
    when the batch failed; with --strict 7 when some answers came from a model that is expected to
    be worse than the planned one.

    Examples:
        routoo-producer watch
        routoo-producer watch monday --json | tail -n 1
    """
    from routoo.settings import load_settings

    watch_batch(load_settings(), batch, as_json=as_json, strict=strict)


def watch_batch(
    settings: "Settings", batch: str | None, *, as_json: bool, strict: bool = False
) -> None:
    """Follow a batch until it is over.

    Raises:
        Exit: With status 8 when the batch failed, 5 when some jobs have no answer; if strict, with
            7 when a worse model than planned answered some.
    """
    from producer.progress import find_batch, follow

    async def watch(database: "Database") -> "Snapshot":
        async with database.transaction() as conn:
            record = await find_batch(conn, batch)
        return await show_progress(follow(database, record), as_json=as_json)

    end_as(run_with_database(settings, watch, on_interrupt=_ON_INTERRUPT), strict=strict)


def end_as(last: "Snapshot", *, strict: bool) -> None:
    """End a command with the exit status that tells how a batch ended.

    Raises:
        Exit: As `watch_batch` says.
    """
    if last.progress.status is BatchStatus.FAILED:
        raise typer.Exit(BATCH_FAILED)
    if not last.all_succeeded and last.progress.status is not BatchStatus.PLANNED:
        raise typer.Exit(INCOMPLETE)
    if strict and not last.as_planned:
        raise typer.Exit(DEVIATED)


async def show_progress(
    snapshots: "AsyncIterator[Snapshot]", *, as_json: bool = False, to_stderr: bool = False
) -> "Snapshot":
    """Show a batch's snapshots as they come, live on a terminal, and return the last one.

    Args:
        snapshots: At least one.
        as_json: Whether lines are JSON.
        to_stderr: Whether standard output is left to something else.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    if stream.isatty() and not as_json:
        return await _show_live(snapshots, messages() if to_stderr else console())
    return await _print_lines(snapshots, as_json=as_json, to_stderr=to_stderr)


async def _show_live(snapshots: "AsyncIterator[Snapshot]", screen: "Console") -> "Snapshot":
    from rich.live import Live

    from producer.screen.progress import progress_view

    with Live(console=screen, auto_refresh=False) as live:
        async for snapshot in snapshots:
            live.update(progress_view(snapshot), refresh=True)
    return snapshot


def _line_every_s(followed_s: float) -> float:
    """Return after how long the next line is printed, of a batch that was followed so long."""
    return min(max(_LINE_EVERY_S, followed_s / 4), _LINE_AT_LEAST_EVERY_S)


async def _print_lines(
    snapshots: "AsyncIterator[Snapshot]", *, as_json: bool, to_stderr: bool
) -> "Snapshot":
    from producer.screen.progress import progress_line

    begun_s, printed_s, status = time.monotonic(), -_LINE_EVERY_S, None
    async for snapshot in snapshots:
        now_s = time.monotonic()
        # A long batch fills no log: the lines come less and less often.
        wait_s = _LINE_EVERY_S if as_json else _line_every_s(now_s - begun_s)
        if now_s - printed_s >= wait_s or snapshot.progress.status is not status:
            printed_s, status = now_s, snapshot.progress.status
            line = json_line(snapshot.as_json()) if as_json else progress_line(snapshot)
            # click's echo flushes: a reader at the other end of a pipe sees each line at once.
            typer.echo(line, err=to_stderr)
    return snapshot
