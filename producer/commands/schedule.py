"""`routoo-producer schedule`: keep evaluation runs that workers make again and again."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from producer.commands.options import JsonOption, LimitOption
from producer.commands.run_options import RunOptions
from routoo.console import formatting
from routoo.console.commands import CommandGroup, with_options
from routoo.console.fitted_table import FittedTable, TableColumn
from routoo.console.output import console, json_line, note
from routoo.console.run import run_in_transaction
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.calendar import Calendar, Missed
from routoo.errors import InputError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from routoo.store.schedules import Firing, NewSchedule, ScheduleRecord

_BY_HAND = "by hand"

schedule = CommandGroup(
    "Run evaluations again and again; `routoo-worker` begins each run when it is due."
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions(RunOptions):
    """The options of a schedule beside those of its runs."""

    tz: Annotated[
        str, typer.Option("--tz", metavar="ZONE", help="Time zone of the fields, an IANA name.")
    ] = "UTC"
    missed: Annotated[
        Missed,
        typer.Option(
            help="Where no worker ran when it was due: run the latest missed one, or none."
        ),
    ] = Missed.RUN_ONCE
    rollback: Annotated[
        bool,
        typer.Option(
            "--rollback", help="Bring the previous checkpoint back when a new one does worse."
        ),
    ] = False


@schedule.command("add")
@with_options(ScheduleOptions)
def add_command(
    name: NameArgument,
    *,
    options: ScheduleOptions,
    eval_set: Annotated[
        str, typer.Option("--evalset", metavar="SET", help="Set to run, in its newest version.")
    ],
    cron: Annotated[
        str, typer.Option(metavar="FIELDS", help="Minute, hour, day, month, weekday, in quotes.")
    ],
) -> None:
    """Add a schedule and print the time of its first run.

    The pool, with its prices, is kept as it is now. Daylight saving time is respected: a time that
    is skipped in spring is due right after the gap, one that comes twice in autumn is due once.

    Examples:
        routoo-producer schedule add nightly --evalset questions --cron "0 2 * * *" --budget-usd 2
    """
    from routoo.settings import load_settings
    from routoo.store import schedules
    from routoo.store.evaluation import eval_sets

    if not name.strip() or not name.isprintable():
        raise InputError("this is no printable text", value=name, where="NAME", remedy="Give some")
    new = _new(name, eval_set, cron, options)

    async def add(conn: "AsyncConnection") -> None:
        await eval_sets.find(conn, eval_set)
        await schedules.add(conn, new)

    run_in_transaction(load_settings(), add)
    if new.budget_usd is None and new.objective is None:
        note("without a budget or an aim the best models are asked, whatever they cost")
    typer.echo(f"next at {_instant(new.next_due_at, new.time_zone)}")


_SCHEDULE_COLUMNS = (
    TableColumn(title="name", least=10),
    TableColumn(title="set", least=8),
    TableColumn(title="cron"),
    TableColumn(title="zone", rank=2),
    TableColumn(title="aim", rank=1, least=16, fold=True),
    TableColumn(title="next"),
)


@schedule.command("list")
def list_command(*, as_json: JsonOption = False) -> None:
    """List the schedules; with --json one object a line."""
    from routoo.settings import load_settings
    from routoo.store import schedules

    found = run_in_transaction(load_settings(), schedules.list_all)
    if as_json:
        for one in found:
            typer.echo(json_line(_facts(one)))
        return
    table = FittedTable(*_SCHEDULE_COLUMNS)
    for one in found:
        following = "paused" if one.paused else _instant(one.next_due_at, one.time_zone)
        aim = formatting.describe_objective(Objective.from_json(one.objective), one.budget_usd)
        cells = (one.eval_set, one.cron, one.time_zone, aim, following)
        table.add_row(one.name, *cells)
    console().print(table)


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
    """Begin a schedule's run now, beside those that are due, and print the run's id."""
    from routoo.evaluation_runs.scheduler import begin_scheduled
    from routoo.settings import load_settings
    from routoo.store import schedules
    from routoo.store.schedules import Firing

    settings = load_settings()

    async def fire(conn: "AsyncConnection") -> str:
        found = await schedules.find(conn, name)
        now = await schedules.now(conn)
        run_id = await begin_scheduled(conn, found, now, settings.shard_size)
        firing = Firing(found.id, now, "submitted", _BY_HAND, run_id=run_id)
        await schedules.save_firing(conn, firing)
        return str(run_id)

    typer.echo(run_in_transaction(settings, fire))


_FIRING_COLUMNS = (
    TableColumn(title="due"),
    TableColumn(title="outcome"),
    TableColumn(title="missed", rank=2, right=True),
    TableColumn(title="run"),
    TableColumn(title="by", rank=1, least=10),
    TableColumn(title="detail", least=16, fold=True),
)


@schedule.command("history")
def history_command(
    name: NameArgument, *, limit: LimitOption = 20, as_json: JsonOption = False
) -> None:
    """List the runs that a schedule began, latest first; with --json one object a line."""
    from routoo.settings import load_settings
    from routoo.store import schedules

    async def load(conn: "AsyncConnection") -> "tuple[ScheduleRecord, list[Firing]]":
        found = await schedules.find(conn, name)
        return found, await schedules.history(conn, found.id, limit)

    found, firings = run_in_transaction(load_settings(), load)
    if as_json:
        for one in firings:
            typer.echo(json_line(one))
        return
    table = FittedTable(*_FIRING_COLUMNS)
    for one in firings:
        run_id = "" if one.run_id is None else str(one.run_id)[:8]
        cells = (one.outcome, str(one.missed or ""), run_id, one.owner, one.detail or "")
        table.add_row(_instant(one.due_at, found.time_zone), *cells)
    console().print(table)


def _new(name: str, eval_set: str, cron: str, options: ScheduleOptions) -> "NewSchedule":
    from routoo.evaluation_runs.begin import RunRequest, check_budgets
    from routoo.settings import load_settings
    from routoo.store.schedules import NewSchedule

    pool = options.candidates(load_settings())
    objective = options.objective(pool)
    call_options = CallOptions(**options.call_facts(pool.names))
    new = NewSchedule(
        name=name,
        eval_set=eval_set,
        cron=cron,
        time_zone=options.tz,
        missed=options.missed,
        pool=pool.model_dump(mode="json"),
        next_due_at=Calendar(cron, options.tz).next_after(datetime.now(UTC)),
        budget_usd=options.budget(),
        objective=None if objective == Objective() else objective.as_json(),
        sample_size=options.sample_size,
        sample_budget_usd=options.sample_budget(),
        judge=options.judge_facts(pool),
        rollback=options.rollback,
        call_options=None if call_options == CallOptions() else call_options.as_json(),
    )
    check_budgets(
        RunRequest(
            pool,
            budget_usd=new.budget_usd,
            sample_size=new.sample_size,
            sample_budget_usd=new.sample_budget_usd,
        )
    )
    return new


def _facts(one: "ScheduleRecord") -> dict[str, object]:
    return {
        "name": one.name,
        "evalset": one.eval_set,
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
