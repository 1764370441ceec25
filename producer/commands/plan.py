"""`routoo-producer plan`: what a file of prompts would bring and cost, before any call."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from producer.commands.objective_options import ObjectiveOptions
from producer.commands.options import JsonOption, MaybeFileArgument
from producer.commands.order_options import OrderOptions
from producer.json_text import json_line
from producer.notice import note
from producer.plans import await_plan, plan_again
from producer.plotting import check_format, plot_plan
from producer.progress import Snapshot
from producer.rows.source import Source
from producer.running import run
from producer.sending import send_request, wake_for
from producer.session import wake_workers
from routoo.console.options import with_options
from routoo.console.output import console
from routoo.domain.job import Stage
from routoo.errors import InfeasibleError, InputError
from routoo.settings import Settings, load_settings
from routoo.store import batches
from routoo.store.batches import BatchRecord
from routoo.store.database import Database

PLAN_EXAMPLES = (
    "\b\nFor example:\n"
    "  routoo-producer plan prompts.jsonl --budget-usd 20\n"
    "  routoo-producer plan prompts.jsonl --match large@0.98 --plot plan.png\n"
    "  routoo-producer plan --from 3f2a --budget-usd 12\n"
    "  routoo-producer plan --show 3f2a\n"
)
ShowOption = Annotated[
    str | None,
    typer.Option("--show", metavar="PLAN", help="Show this plan again instead of making one."),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="PLAN",
        help="Plan the jobs of a plan or batch for another budget or aim, without scoring again.",
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(metavar="OUT", help="Draw the frontier into a .png, .svg or .pdf file."),
]

_ON_INTERRUPT = "The plan goes on. `routoo-producer plan --show PLAN` prints it."


@with_options(OrderOptions)
def plan_command(
    file: MaybeFileArgument = None,
    *,
    options: OrderOptions,
    source: SourceOption = None,
    show: ShowOption = None,
    plot: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score and select a file of prompts without calling any model, and show the plan.

    It costs nothing: expected quality and cost, the models' shares, when the answers will be there,
    what more money would buy, and the whole frontier of cost against quality. Submit exactly this
    plan with `submit --plan ID`, or forget it. Rows and options are those of `submit`. Workers
    must run; Ctrl-C leaves the plan to them.
    """
    settings = load_settings()
    if plot is not None:
        check_format(plot)
    _check_choice(file, source, show, options)
    if file is not None:
        batch_id = _plan_file(settings, file, options)
    elif source is not None:
        batch_id = _plan_again(settings, source, options)
    else:
        batch_id = run(settings, lambda database: _find(database, str(show)))
    batch = run(settings, lambda database: _awaited(database, batch_id), on_interrupt=_ON_INTERRUPT)
    _show(batch, plot, as_json=as_json)


def _check_choice(
    file: str | None, source: str | None, show: str | None, options: OrderOptions
) -> None:
    """Refuse options that can't be followed."""
    given = [one for one in (file, source, show) if one is not None]
    plain = OrderOptions()
    if source is not None:
        # How sure floors are is settled with the predictions, which are not made again.
        names = {field.name for field in fields(ObjectiveOptions)} - {"floor_confidence"}
        aim = {name: getattr(options, name) for name in names}
        plain = replace(plain, **aim)
    if len(given) != 1 or (file is None and options != plain):
        raise InputError(
            "give a FILE with any options, --from with a budget and an aim, or --show alone",
            remedy="`routoo-producer plan --help` shows them",
        )


def _plan_file(settings: Settings, file: str, options: OrderOptions) -> UUID:
    request = options.request(settings, plan_only=True)
    submission = send_request(settings, Source.of(file, options.row_format), request)
    note(f"plan {submission.batch_id}")
    wake_for(settings, submission)
    return submission.batch_id


def _plan_again(settings: Settings, source: str, options: OrderOptions) -> UUID:
    async def plan(database: Database) -> UUID:
        return await plan_again(
            database, source, options.budget(), options.objective, settings.shard_size
        )

    batch_id = run(settings, plan)
    note(f"plan {batch_id}")
    wake_workers(settings, Stage.SELECT, batch_id, 1)
    return batch_id


async def _find(database: Database, text: str) -> UUID:
    async with database.transaction() as conn:
        return (await batches.find(conn, text)).id


async def _awaited(database: Database, batch_id: UUID) -> BatchRecord:
    with _progress() as on_progress:
        return await await_plan(database, batch_id, on_progress)


@contextmanager
def _progress() -> Iterator[Callable[[Snapshot], None] | None]:
    """Show how many jobs are scored where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from producer.screen.scoring import scoring_progress  # noqa: PLC0415 - for terminals only

    with scoring_progress() as on_progress:
        yield on_progress


def _show(batch: BatchRecord, plot: Path | None, *, as_json: bool) -> None:
    plan = batch.plan or {}
    if plot is not None:
        plot_plan(plan, plot)
    if as_json:
        typer.echo(json_line(_facts(batch, plan)))
    else:
        from producer.screen.plan import plan_view  # noqa: PLC0415 - rich, for people only

        console().print(plan_view(batch, plan))
    if plan["jobs"] and not plan["served"] and plan["advice"]:
        raise InfeasibleError("the limits can't all hold", remedy=plan["advice"].rstrip("."))


def _facts(batch: BatchRecord, plan: dict[str, Any]) -> dict[str, Any]:
    return {
        "plan_id": str(batch.id),
        "name": batch.name,
        "status": batch.status,
        "budget_usd": batch.budget_usd,
        "objective": batch.objective.as_json(),
        "plan": plan,
    }
