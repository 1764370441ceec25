"""`routoo-producer eval`: measure the routing on a set of questions with references."""

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.evaluation_report import REPORT_EXAMPLES, report_command
from producer.commands.options import JsonOption
from producer.commands.run_options import EvalRunOptions, RunArgument
from producer.json_text import json_line
from producer.notice import note
from producer.running import run
from producer.session import wake_workers
from routoo.console.options import with_options
from routoo.domain.job import Stage
from routoo.settings import Settings, load_settings
from routoo.store.database import Database
from routoo.store.evaluation import eval_runs

if TYPE_CHECKING:
    from producer.evaluation.runs import RunView
    from routoo.evaluation_runs.begin import RunRequest

RUN_EXAMPLES = (
    "\b\nFor example:\n"
    "  routoo-producer eval run nightly --budget-usd 2 --watch\n"
    "  routoo-producer eval run nightly --match large@0.98 --full --sample 100\n"
    "  routoo-producer eval run mmlu --recorded mmlu_outcomes.parquet --pool pool.yaml\n"
)
ALERTED = 6
"""Exit status of a run that is worse than the runs before it."""
_ON_INTERRUPT = "The run goes on. `routoo-producer eval show` shows it."

evaluation = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure the routing on sets of questions with references.",
)
evaluation.command("report", epilog=REPORT_EXAMPLES)(report_command)


@evaluation.command("run", epilog=RUN_EXAMPLES)
@with_options(EvalRunOptions)
def run_command(
    eval_set: Annotated[str, typer.Argument(metavar="SET", help="The set, or SET@HASH.")],
    *,
    options: EvalRunOptions,
    watch: Annotated[
        bool, typer.Option("--watch", help="Stay until the run is graded; --recorded always does.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a set through the whole pipeline as a batch of its own, and grade the answers.

    Workers grade a run when its batches have ended, whether or not anybody watches. Exit status
    once graded: 0 fine, 1 the run failed, 6 it is worse than the runs before it.
    """
    # The selector takes 0.3 s to load: not for the other commands
    from producer.evaluation.replay import replaying  # noqa: PLC0415
    from producer.evaluation.runs import batches_of, begin, follow  # noqa: PLC0415

    settings = load_settings()
    with ExitStack() as stack:
        request = _run_request(settings, options)
        if options.recorded:
            served = replaying(request.pool, options.recorded, options.latency_scale)
            request = replace(request, pool=stack.enter_context(served))

        async def measure(database: Database) -> "RunView | None":
            begun = await begin(database, eval_set, request, shard_size=settings.shard_size)
            note(f"begun: run {begun.id}")
            for batch_id, jobs in await batches_of(database, begun):
                wake_workers(settings, Stage.SCORE, batch_id, -(-jobs // settings.shard_size))
            if not (watch or options.recorded):
                typer.echo(json_line({"run_id": str(begun.id)}) if as_json else str(begun.id))
                return None
            return await follow(database, begun.id, shard_size=settings.shard_size)

        view = run(settings, measure, on_interrupt=_ON_INTERRUPT)
    if view is not None:
        _show(view, as_json=as_json)


@evaluation.command("list")
def list_command(
    *,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Most runs to list.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest runs; with --json one object a line."""
    from producer.evaluation.runs import view_run  # noqa: PLC0415 - as above
    from producer.screen.evaluation import run_table  # noqa: PLC0415 - the same

    async def recent(database: Database) -> "list[RunView]":
        async with database.transaction() as conn:
            found = await eval_runs.list_recent(conn, limit)
            return [await view_run(conn, one) for one in found]

    views = run(load_settings(), recent)
    if as_json:
        for view in views:
            typer.echo(json_line(view.as_json()))
    else:
        run_table(views)


@evaluation.command("show")
def show_command(which: RunArgument = None, *, as_json: JsonOption = False) -> None:
    """Show a run's headline figures and alerts; exit status as for `eval run`."""
    from producer.evaluation.runs import view_run  # noqa: PLC0415 - as above

    async def load(database: Database) -> "RunView":
        async with database.transaction() as conn:
            return await view_run(conn, await eval_runs.find(conn, which))

    _show(run(load_settings(), load), as_json=as_json)


def _show(view: "RunView", *, as_json: bool) -> None:
    from producer.screen.evaluation import print_run  # noqa: PLC0415 - as above

    if as_json:
        typer.echo(json_line(view.as_json()))
    else:
        print_run(view)
    if view.run.state == "failed":
        raise typer.Exit(1)
    if view.alerts:
        raise typer.Exit(ALERTED)


def _run_request(settings: Settings, options: EvalRunOptions) -> "RunRequest":
    from routoo.evaluation_runs.begin import RunRequest, check_budgets  # noqa: PLC0415 - as above

    pool = options.candidates(settings)
    request = RunRequest(
        pool,
        name=options.name,
        budget_usd=options.budget(),
        objective=options.objective(pool),
        sample_size=options.sample_size,
        sample_budget_usd=options.sample_budget(),
        recorded=bool(options.recorded),
        judge=options.judge_facts(pool),
    )
    check_budgets(request)
    return request
