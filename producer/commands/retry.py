"""`routoo-producer resume` and `retry`: let a batch go on, with more money or a second chance."""

from collections.abc import Collection
from decimal import Decimal
from functools import partial
from typing import Annotated

import typer

from producer.commands.control import tell
from producer.commands.options import JsonOption, NamedBatch
from producer.commands.reading_options import read_option
from producer.notice import note
from producer.progress import Snapshot, find_batch, take_snapshot
from producer.rows.limits import read_usd
from producer.running import run
from routoo.domain.job import BatchStatus, ResultStatus
from routoo.errors import InputError
from routoo.settings import load_settings
from routoo.store import budget
from routoo.store.batches import BatchRecord, control, retry
from routoo.store.database import Database

RESUME_EXAMPLES = (
    "\b\nFor example:\n"
    "  routoo-producer resume monday\n"
    "  routoo-producer resume monday --budget-usd 20\n"
)
RETRY_EXAMPLES = (
    "\b\nFor example:\n"
    "  routoo-producer retry monday --failed-only\n"
    "  routoo-producer retry 3f2a --status expired --status cancelled\n"
)


def resume_command(
    batch: NamedBatch,
    *,
    budget_usd: Annotated[
        str | None,
        typer.Option(metavar="X", help="New budget of the whole batch, what was spent included."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let a paused batch go on; with --budget-usd, one whose money ran out as well.

    Jobs that ended as budget_exhausted are opened again under the new budget and models are chosen
    anew for them. The budget may be lowered too, to what is spent and set aside at the least.
    """
    amount = read_option("--budget-usd", partial(read_usd, "the budget"), budget_usd)

    async def resume(database: Database) -> Snapshot:
        async with database.transaction() as conn:
            record = await find_batch(conn, batch)
        if amount is None:
            async with database.transaction() as conn:
                await control.resume(conn, record.id)
        else:
            await _resume_with(database, record, amount)
        async with database.transaction() as conn:
            return await take_snapshot(conn, record)

    tell(run(load_settings(), resume), as_json=as_json)


async def _resume_with(database: Database, record: BatchRecord, budget_usd: Decimal) -> None:
    """Set the budget, then reopen: a command that died in between can be repeated."""
    async with database.transaction() as conn:
        await budget.set_budget(conn, record.id, budget_usd)
        if record.status is BatchStatus.PAUSED:
            await control.resume(conn, record.id)
    reason = f"the budget is now {budget_usd} USD"
    await _reopen(database, record, {ResultStatus.BUDGET_EXHAUSTED}, reason)


def retry_command(
    batch: NamedBatch,
    *,
    failed_only: Annotated[
        bool, typer.Option("--failed-only", help="Only jobs that ended as failed.")
    ] = False,
    status: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS",
            help="Only jobs that ended so: failed, expired, budget_exhausted or cancelled; may be "
            "given more than once.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Try jobs again that have no answer: all of them, or those that ended in a certain way.

    Models are chosen anew for them with the money that is left. How they had ended is kept in the
    table superseded_results; their calls so far stay counted. A failed or cancelled batch goes on
    where it stopped.
    """
    wanted = _read_statuses(status or [], failed_only=failed_only)

    async def retry_jobs(database: Database) -> Snapshot:
        async with database.transaction() as conn:
            record = await find_batch(conn, batch)
        await _reopen(database, record, wanted, "a retry was asked for")
        async with database.transaction() as conn:
            return await take_snapshot(conn, record)

    tell(run(load_settings(), retry_jobs), as_json=as_json)


async def _reopen(
    database: Database, record: BatchRecord, statuses: Collection[ResultStatus], reason: str
) -> None:
    async with database.transaction() as conn:
        reopened = await retry.reopen(conn, record.id, statuses, reason)
    note(f"{reopened.jobs:,} jobs are open again")
    if reopened.left:
        note(f"{reopened.left:,} more are in shards at work: try again once those have ended")


def _read_statuses(names: list[str], *, failed_only: bool) -> frozenset[ResultStatus]:
    if failed_only and names:
        raise InputError("--failed-only and --status exclude each other", remedy="Give one of them")
    if failed_only:
        return frozenset({ResultStatus.FAILED})
    unknown = sorted(set(names) - {str(status) for status in retry.UNANSWERED})
    if unknown:
        raise InputError(
            "this is no way to end without an answer",
            value=unknown[0],
            where="--status",
            remedy=f"Give one of {', '.join(sorted(retry.UNANSWERED))}",
        )
    return frozenset(map(ResultStatus, names)) or retry.UNANSWERED
