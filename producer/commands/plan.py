"""`routoo-producer plan`: show what a file of prompts would bring and cost, before any call."""

from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.batch_options import BatchOptions
from producer.commands.options import AimOptions, JsonOption, MaybeFileArgument
from routoo.console.commands import with_options
from routoo.console.output import console, json_line, note
from routoo.console.run import run_with_database
from routoo.domain.job import Stage
from routoo.errors import InputError

if TYPE_CHECKING:
    from uuid import UUID

    from routoo.domain.batch_options import CallOptions, Objective
    from routoo.predictor.placement import PlacedModel
    from routoo.settings import Settings
    from routoo.store.batches.records import BatchRecord
    from routoo.store.database import Database

ShowOption = Annotated[
    str | None,
    typer.Option("--show", metavar="PLAN", help="Show this plan again instead of making one."),
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="PLAN",
        help="Plan the jobs of a plan or batch for another budget or aim, or without judging "
        "answers, and don't score them again.",
    ),
]
PlotOption = Annotated[
    Path | None,
    typer.Option(metavar="OUT", help="Draw the frontier into a .png, .svg or .pdf file."),
]

_ON_INTERRUPT = "The plan goes on. `routoo-producer plan --show PLAN` prints it."


@with_options(BatchOptions)
def plan_command(
    file: MaybeFileArgument = None,
    *,
    options: BatchOptions,
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

    Examples:
        routoo-producer plan prompts.jsonl --budget-usd 20
        routoo-producer plan prompts.jsonl --match large@0.98 --plot plan.png
        routoo-producer plan --from 3f2a --budget-usd 12
        routoo-producer plan --show 3f2a
    """
    from producer.screen.plan import check_picture_format
    from routoo.settings import load_settings

    settings = load_settings()
    if plot is not None:
        check_picture_format(plot)
    _check_choice(file, source, show, options)
    if file is not None:
        batch_id = _plan_file(settings, file, options)
    elif source is not None:
        batch_id = _plan_again(settings, source, options)
    else:
        batch_id = _find(settings, str(show))
    batch = _awaited(settings, batch_id)
    _show(batch, _priors(settings, batch), plot, as_json=as_json, is_new=file is not None)


def _check_choice(
    file: str | None, source: str | None, show: str | None, options: BatchOptions
) -> None:
    """Refuse options that exclude each other."""
    given = [one for one in (file, source, show) if one is not None]
    plain = BatchOptions()
    if source is not None:
        # Only the aim and probes can change: floors apply to predictions, which aren't made again.
        aim = {field.name: getattr(options, field.name) for field in fields(AimOptions)}
        plain = replace(plain, **aim)
    if len(given) != 1 or (file is None and options != plain):
        raise InputError(
            "give a FILE with any options, --from with a budget and an aim, or --show alone",
            remedy="`routoo-producer plan --help` shows them",
        )


def _plan_file(settings: "Settings", file: str, options: BatchOptions) -> "UUID":
    from producer.commands.submit import publish_batch, send_request

    request = options.request(settings, plan_only=True)
    source = options.source(file)
    submission = send_request(settings, source, request, no_ping=options.no_ping)
    note(f"plan {submission.batch_id}")
    publish_batch(settings, submission)
    return submission.batch_id


def _plan_again(settings: "Settings", source: str, options: BatchOptions) -> "UUID":
    from producer.control import plan_again
    from producer.queue import check_broker, publish_or_note

    check_broker(settings)
    batch_id = run_with_database(
        settings,
        lambda database: plan_again(
            database, source, options.budget(), partial(_aim, options), settings.shard_size
        ),
    )
    note(f"plan {batch_id}")
    publish_or_note(settings, Stage.SELECT, batch_id, 1)
    return batch_id


def _aim(options: BatchOptions, batch: "BatchRecord") -> "tuple[Objective, CallOptions]":
    """Return a derived plan's objective, and its call options: the source's with what is given."""
    call_options = options.changed(batch.call_options, batch.pool.names)
    return options.objective(batch.pool), call_options


def _find(settings: "Settings", plan: str) -> "UUID":
    from routoo.store import batches

    async def find(database: "Database") -> "UUID":
        async with database.transaction() as conn:
            return (await batches.find(conn, plan)).id

    return run_with_database(settings, find)


def _awaited(settings: "Settings", batch_id: "UUID") -> "BatchRecord":
    from producer.control import await_plan
    from producer.screen.progress import planning_progress

    async def wait(database: "Database") -> "BatchRecord":
        with planning_progress() as on_progress:
            return await await_plan(database, batch_id, on_progress)

    return run_with_database(settings, wait, on_interrupt=_ON_INTERRUPT)


def _priors(settings: "Settings", batch: "BatchRecord") -> "list[PlacedModel]":
    """Return the models that the plan places by priors."""
    from producer.pool_check import priors_of

    return run_with_database(
        settings, lambda database: priors_of(database, batch, settings.checkpoint)
    )


def _show(
    batch: "BatchRecord",
    priors: "list[PlacedModel]",
    plot: Path | None,
    *,
    as_json: bool,
    is_new: bool,
) -> None:
    from producer.control import check_feasible
    from producer.pool_check import prior_notes, shared_doubt
    from producer.screen.plan import plan_view, plot_plan

    plan = batch.plan or {}
    if plot is not None:
        plot_plan(plan, plot)
    if as_json:
        facts = _facts(batch) | {"priors": [one.as_json() for one in priors]}
        typer.echo(json_line(facts))
    else:
        console().print(plan_view(batch, plan))
        # A new plan's notes were shown when its rows were sent.
        for line in prior_notes(priors) if priors and not is_new else ():
            note(line)
        doubt = shared_doubt(plan, priors)
        if doubt is not None:
            note(doubt)
    check_feasible(plan)


def _facts(batch: "BatchRecord") -> dict[str, object]:
    return {
        "plan_id": str(batch.id),
        "name": batch.name,
        "status": batch.status,
        "budget_usd": batch.budget_usd,
        "objective": batch.objective.as_json(),
        "plan": batch.plan or {},
    }
