"""`routoo-producer status` and `list`: how batches stand."""

from typing import Annotated

import typer
from rich.table import Table

from producer.commands.options import BatchArgument, JsonOption
from producer.json_text import json_line
from producer.progress import Snapshot, find_batch, take_snapshot
from producer.running import run
from producer.screen.progress import progress_view
from routoo.console import formatting
from routoo.console.output import console
from routoo.settings import load_settings
from routoo.store import batches
from routoo.store.batches import BatchRecord
from routoo.store.database import Database

STATUS_EXAMPLES = (
    "\b\nFor example:\n  routoo-producer status\n  routoo-producer status 3f2a --json\n"
)
LIST_EXAMPLES = "\b\nFor example:\n  routoo-producer list --limit 5\n"


def status_command(batch: BatchArgument = None, *, as_json: JsonOption = False) -> None:
    """Show how a batch stands: stages, results, money, models."""

    async def status(database: Database) -> Snapshot:
        async with database.transaction() as conn:
            return await take_snapshot(conn, await find_batch(conn, batch))

    snapshot = run(load_settings(), status)
    if as_json:
        typer.echo(json_line(snapshot.as_json()))
    else:
        console().print(progress_view(snapshot))


def list_command(
    *,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Most batches to list.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest batches; with --json one object a line."""

    async def recent(database: Database) -> list[BatchRecord]:
        async with database.transaction() as conn:
            return await batches.list_recent(conn, limit)

    found = run(load_settings(), recent)
    if as_json:
        for record in found:
            typer.echo(json_line(_facts(record)))
    else:
        console().print(_table(found))


def _facts(record: BatchRecord) -> dict[str, object]:
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


def _table(found: list[BatchRecord]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column("id", no_wrap=True)
    for name in ("name", "status", "jobs", "budget", "submitted"):
        table.add_column(name, justify="right" if name in {"jobs", "budget"} else "left")
    for record in found:
        table.add_row(
            str(record.id),
            record.name,
            record.status,
            f"{record.job_count:,}",
            formatting.usd(record.budget_usd),
            f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC",
        )
    return table
