"""`routoo-producer status` and `list`: show the progress of a batch, and the newest batches."""

from typing import TYPE_CHECKING

import typer

from producer.commands.options import BatchArgument, JsonOption, LimitOption, StrictOption
from routoo.console.output import console, json_line
from routoo.console.run import DEVIATED, run_in_transaction

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from producer.progress import Snapshot
    from routoo.store.batches.records import BatchRecord


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
