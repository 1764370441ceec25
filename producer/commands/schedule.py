"""`routoo-producer schedule`: batches and evaluation runs that workers begin again and again."""

from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any
from zoneinfo import ZoneInfo

import typer

from producer.commands.batch_options import BatchOptions
from producer.commands.evaluation_options import (
    NOT_BATCH_OPTIONS,
    ScheduleOptions,
    WorkOptions,
    new_schedule,
)
from producer.commands.options import JsonOption, LimitOption
from routoo.console import formatting
from routoo.console.commands import CommandGroup, with_options
from routoo.console.output import FittedTable, TableColumn, console, json_line, note
from routoo.console.run import run_in_transaction, run_with_database
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.calendar import Calendar
from routoo.domain.pool import Pool
from routoo.errors import InputError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from routoo.settings import Settings
    from routoo.store.database import Database
    from routoo.store.schedules import Firing, NewSchedule, ScheduleRecord

_BY_HAND = "by hand"

schedule = CommandGroup(
    "Submit batches or run evaluations again and again; `routoo-worker` does so when they are due."
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


@schedule.command("add")
@with_options(ScheduleOptions)
@with_options(BatchOptions, into="batch_options", without=NOT_BATCH_OPTIONS)
@with_options(WorkOptions, into="work")
def add_command(
    name: NameArgument,
    *,
    options: ScheduleOptions,
    batch_options: BatchOptions,
    work: WorkOptions,
    cron: Annotated[
        str, typer.Option(metavar="FIELDS", help="Minute, hour, day, month, weekday, in quotes.")
    ],
) -> None:
    """Add a schedule and print the time of its first run.

    It runs an evaluation set, or submits batches with the options of `submit`. The budget is for
    all that is submitted at one time: files of a pattern share it by their numbers of rows. The
    pool, with its prices, is kept as it is now. Daylight saving time is respected: a time that is
    skipped in spring is due right after the gap, one that comes twice in autumn is due once.

    Examples:
        routoo-producer schedule add nightly --evalset questions --cron "0 2 * * *" --budget-usd 2
        routoo-producer schedule add mail --batch "/data/in/*.csv" --only-new --cron "0 1 * * *"
        routoo-producer schedule add open --sql - --sql-url-env CRM_URL --cron "30 0 * * *" < q.sql
    """
    from routoo.settings import load_settings

    if not name.strip() or not name.isprintable():
        raise InputError("this is no printable text", value=name, where="NAME", remedy="Give some")
    settings = load_settings()
    new = new_schedule(settings, name, cron, options, batch_options, work)
    asks = not batch_options.no_ping
    run_with_database(settings, lambda database: _add(database, settings, new, asks_endpoints=asks))
    if new.budget_usd is None and new.objective is None:
        note("without a budget or an aim the best models are asked, whatever they cost")
    typer.echo(f"next at {_instant(new.next_due_at, new.time_zone)}")


async def _add(
    database: "Database", settings: "Settings", new: "NewSchedule", *, asks_endpoints: bool
) -> None:
    from producer.pool_check import check_pool
    from routoo.store import schedules
    from routoo.store.evaluation import eval_sets

    if new.eval_set is None:
        pool = Pool.model_validate(new.pool)
        for text in await check_pool(database, pool, settings, asks_endpoints=asks_endpoints):
            note(text)
    async with database.transaction() as conn:
        if new.eval_set is not None:
            await eval_sets.find(conn, new.eval_set)
        await schedules.add(conn, new)


_SCHEDULE_COLUMNS = (
    TableColumn(title="name", least=10),
    TableColumn(title="work", least=8, fold=True),
    TableColumn(title="cron"),
    TableColumn(title="zone", rank=2),
    TableColumn(title="aim", rank=1, least=16, fold=True),
    TableColumn(title="next"),
    TableColumn(title="last"),
)


@schedule.command("list")
def list_command(*, as_json: JsonOption = False) -> None:
    """List the schedules; with --json one object a line."""
    from routoo.settings import load_settings
    from routoo.store import schedules

    async def load(conn: "AsyncConnection") -> "list[tuple[ScheduleRecord, Firing | None]]":
        last = await schedules.last_firings(conn)
        return [(one, last.get(one.id)) for one in await schedules.list_all(conn)]

    found = run_in_transaction(load_settings(), load)
    if as_json:
        for one, last in found:
            typer.echo(json_line({**_facts(one), "last": last}))
        return
    table = FittedTable(*_SCHEDULE_COLUMNS)
    for one, last in found:
        following = "paused" if one.paused else _instant(one.next_due_at, one.time_zone)
        aim = formatting.describe_objective(Objective.from_json(one.objective), one.budget_usd)
        outcome = "" if last is None else last.outcome
        table.add_row(one.name, _work(one), one.cron, one.time_zone, aim, following, outcome)
    console().print(table)


@schedule.command("show")
def show_command(name: NameArgument, *, as_json: JsonOption = False) -> None:
    """Show a schedule, and what came of its last due times, errors among them."""
    found, firings = _load_history(name, 5)
    if as_json:
        typer.echo(json_line({**_facts(found), "firings": firings}))
        return
    for label, value in _facts(found).items():
        if value not in (None, False):
            typer.echo(f"{label:22} {_shown(value)}")
    _print_firings(found, firings)


def _shown(value: object) -> str:
    plain = isinstance(value, str | int | float | Decimal | datetime)
    return str(value) if plain else json_line(value)


@schedule.command("pause")
def pause_command(name: NameArgument) -> None:
    """Begin no more runs of a schedule; what is due meanwhile is left out."""
    from routoo.settings import load_settings
    from routoo.store import schedules

    async def pause(conn: "AsyncConnection") -> None:
        found = await schedules.find(conn, name)
        await schedules.pause(conn, found.id, paused=True)

    run_in_transaction(load_settings(), pause)


@schedule.command("resume")
def resume_command(name: NameArgument) -> None:
    """Begin runs of a paused schedule again, from its next due time on."""
    from routoo.settings import load_settings
    from routoo.store import schedules

    async def resume(conn: "AsyncConnection") -> "ScheduleRecord":
        found = await schedules.find(conn, name)
        if found.paused:
            now = await schedules.now(conn)
            following = Calendar(found.cron, found.time_zone).next_after(now)
            await schedules.move(conn, found.id, following)
            await schedules.pause(conn, found.id, paused=False)
        return await schedules.get(conn, found.id)

    found = run_in_transaction(load_settings(), resume)
    typer.echo(f"next at {_instant(found.next_due_at, found.time_zone)}")


@schedule.command("remove")
def remove_command(name: NameArgument) -> None:
    """Remove a schedule and its history; its runs stay."""
    from routoo.settings import load_settings
    from routoo.store import schedules

    async def remove(conn: "AsyncConnection") -> None:
        await schedules.remove(conn, (await schedules.find(conn, name)).id)

    run_in_transaction(load_settings(), remove)


@schedule.command("run-now")
def run_now_command(name: NameArgument) -> None:
    """Begin a schedule's work now, beside what is due, and print the run's or the batches' ids."""
    from producer.scheduled import submit_scheduled
    from routoo.evaluation_runs.scheduler import Begun, begin_scheduled
    from routoo.settings import load_settings
    from routoo.store import schedules
    from routoo.store.schedules import Firing

    settings = load_settings()

    async def fire(conn: "AsyncConnection") -> "Begun":
        found = await schedules.find(conn, name)
        now = await schedules.now(conn)
        if found.batch is not None:
            begun = await submit_scheduled(conn, found, now, shard_size=settings.shard_size)
        else:
            begun = Begun(await begin_scheduled(conn, found, now, settings.shard_size))
        facts = begun.outcome, _BY_HAND, 0, begun.run_id, begun.detail
        await schedules.save_firing(conn, Firing(found.id, now, *facts))
        await schedules.save_batches(conn, begun.batches)
        return begun

    begun = run_in_transaction(settings, fire)
    if begun.run_id is not None:
        note("evaluation run:")
        typer.echo(str(begun.run_id))
    if begun.batches:
        note("batch:" if len(begun.batches) == 1 else f"{len(begun.batches):,} batches:")
    for batch in begun.batches:
        typer.echo(str(batch.batch_id))
    if begun.detail is not None:
        note(f"{begun.outcome}: {begun.detail}")
    if begun.outcome == "failed":
        raise typer.Exit(1)


_FIRING_COLUMNS = (
    TableColumn(title="due"),
    TableColumn(title="outcome"),
    TableColumn(title="missed", rank=2, right=True),
    TableColumn(title="run or batches", least=8, fold=True),
    TableColumn(title="by", rank=1, least=10),
    TableColumn(title="detail", least=16, fold=True),
)


@schedule.command("history")
def history_command(
    name: NameArgument, *, limit: LimitOption = 20, as_json: JsonOption = False
) -> None:
    """List what a schedule began, latest first; with --json one object a line."""
    found, firings = _load_history(name, limit)
    if as_json:
        for one in firings:
            typer.echo(json_line(one))
        return
    _print_firings(found, firings)


def _load_history(name: str, limit: int) -> "tuple[ScheduleRecord, list[dict[str, Any]]]":
    """Return a schedule and its latest firings, each with its batches."""
    from routoo.settings import load_settings
    from routoo.store import schedules

    async def load(conn: "AsyncConnection") -> "tuple[ScheduleRecord, list[dict[str, Any]]]":
        found = await schedules.find(conn, name)
        firings = await schedules.history(conn, found.id, limit)
        begun = await schedules.batches_of(conn, found.id, [one.due_at for one in firings])
        return found, [
            {**asdict(one), "batches": [asdict(x) for x in begun if x.due_at == one.due_at]}
            for one in firings
        ]

    return run_in_transaction(load_settings(), load)


def _print_firings(found: "ScheduleRecord", firings: "list[dict[str, Any]]") -> None:
    table = FittedTable(*_FIRING_COLUMNS)
    for one in firings:
        ids = [one["run_id"], *(batch["batch_id"] for batch in one["batches"])]
        shown = " ".join(str(each)[:8] for each in ids if each is not None)
        cells = (one["outcome"], str(one["missed"] or ""), shown, one["owner"], one["detail"] or "")
        table.add_row(_instant(one["due_at"], found.time_zone), *cells)
    console().print(table)


def _work(one: "ScheduleRecord") -> str:
    """Return what a schedule does; a query is not shown."""
    if one.eval_set is not None:
        return one.eval_set
    batch = one.batch or {}
    return str(batch.get("files") or f"query by {batch.get('url_env')}")


def _facts(one: "ScheduleRecord") -> dict[str, object]:
    return {
        "name": one.name,
        "evalset": one.eval_set,
        "batch": None if one.batch is None else {**one.batch, "query": None},
        "cron": one.cron,
        "tz": one.time_zone,
        "missed": one.missed,
        "budget_usd": one.budget_usd,
        "objective": Objective.from_json(one.objective),
        "max_completion_tokens": CallOptions.from_json(one.call_options).max_completion_tokens,
        "sample": one.sample_size,
        "sample_budget_usd": one.sample_budget_usd,
        "rollback": one.rollback,
        "call_options": CallOptions.from_json(one.call_options),
        "paused": one.paused,
        "next_due_at": one.next_due_at,
    }


def _instant(instant: datetime, time_zone: str) -> str:
    return f"{instant.astimezone(ZoneInfo(time_zone)):%Y-%m-%d %H:%M %Z}"
