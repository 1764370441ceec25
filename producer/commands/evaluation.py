"""`routoo-producer eval`: measure the routing on a set of questions with references."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from producer.commands.evaluation_options import RunOptions
from producer.commands.options import JsonOption, LimitOption
from routoo.console import formatting
from routoo.console.commands import CommandGroup, with_options
from routoo.console.output import FittedTable, TableColumn, console, json_line, note
from routoo.console.run import run_in_transaction, run_with_database
from routoo.domain.job import Stage
from routoo.errors import InputError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from producer.evaluation.runs import RunView
    from routoo.evaluation_runs.begin import RunRequest
    from routoo.settings import Settings
    from routoo.store.database import Database
    from routoo.store.evaluation.eval_runs import RunRecord

ALERTED = 6
"""Exit status of a run that is worse than the runs before it."""
_FIGURES = (
    ("quality", "quality"),
    ("expected_quality", "predicted quality"),
    ("overconfidence", "predicted less actual"),
    ("cost_per_item_usd", "cost an item, USD"),
    ("expected_cost_per_item_usd", "expected cost, USD"),
    ("novelty", "novelty"),
)
_RUN_COLUMNS = (
    TableColumn(title="run"),
    TableColumn(title="name", least=10),
    TableColumn(title="set", rank=1, least=10),
    TableColumn(title="state"),
    TableColumn(title="quality", right=True),
    TableColumn(title="cost", rank=2, right=True),
    TableColumn(title="alerts", right=True),
    TableColumn(title="begun", rank=3),
)
_ON_INTERRUPT = "The run goes on. `routoo-producer eval show` shows it."

evaluation = CommandGroup("Measure the routing on sets of questions with references.")

RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="Id, start of an id, or name of the run; the latest where left out.",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRunOptions(RunOptions):
    """The options of one run beside those."""

    name: Annotated[
        str | None, typer.Option(metavar="N", help="Name of the run. (default: the set's)")
    ] = None
    recorded: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="OUTCOMES",
            help="Outcome table whose answers are replayed: no model is called; can be repeated.",
        ),
    ] = None
    answers: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="ANSWERS",
            help="Table of recorded texts, to judge and check: without it no model of a recorded "
            "run is asked first; can be repeated.",
        ),
    ] = None
    latency_scale: Annotated[
        float, typer.Option(min=0, help="Part of the recorded latency that a replayed call takes.")
    ] = 0.0


@evaluation.command("run")
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

    Examples:
        routoo-producer eval run nightly --budget-usd 2 --watch
        routoo-producer eval run nightly --match large@0.98 --full --sample 100
        routoo-producer eval run mmlu --recorded mmlu_outcomes.parquet --pool pool.yaml
        routoo-producer eval run math --recorded O.parquet --answers A.parquet --full
    """
    from producer.evaluation.runs import await_run
    from routoo.console.logs import configure_logs
    from routoo.settings import load_settings

    settings = load_settings()
    configure_logs(settings.log_level, as_json=False, role="producer")  # where it is graded here
    with ExitStack() as stack:
        request = _run_request(settings, options)
        if options.recorded:
            request = stack.enter_context(_replayed(request, options))

        async def measure(database: "Database") -> "RunView | None":
            begun = await _begin(database, settings, eval_set, request)
            if not (watch or options.recorded):
                typer.echo(json_line({"run_id": str(begun.id)}) if as_json else str(begun.id))
                return None
            return await await_run(database, begun.id, shard_size=settings.shard_size)

        view = run_with_database(settings, measure, on_interrupt=_ON_INTERRUPT)
    if view is not None:
        _show(view, as_json=as_json)


@contextmanager
def _replayed(request: "RunRequest", options: EvalRunOptions) -> "Iterator[RunRequest]":
    """Serve recorded answers, and yield the request for a run that asks for these."""
    from producer.evaluation.runs import recorded_probes, replay_server

    outcomes, answers, scale = options.recorded or (), options.answers or (), options.latency_scale
    calls = recorded_probes(request.call_options, request.pool, answers)
    with replay_server(request.pool, outcomes, scale, answers) as pool:
        yield replace(request, pool=pool, call_options=calls)


async def _begin(
    database: "Database", settings: "Settings", eval_set: str, request: "RunRequest"
) -> "RunRecord":
    """Begin a run, and tell the workers of its batches."""
    from producer.evaluation.runs import batches_of, begin
    from producer.queue import publish_or_note

    begun = await begin(database, eval_set, request, shard_size=settings.shard_size)
    note(f"begun: run {begun.id}")
    for batch_id, jobs in await batches_of(database, begun):
        publish_or_note(settings, Stage.SCORE, batch_id, settings.shard_count(jobs))
    return begun


@evaluation.command("list")
def list_command(*, limit: LimitOption = 20, as_json: JsonOption = False) -> None:
    """List the newest runs; with --json one object a line."""
    from producer.evaluation.runs import view_run
    from routoo.settings import load_settings
    from routoo.store.evaluation import eval_runs

    async def recent(conn: "AsyncConnection") -> "list[RunView]":
        found = await eval_runs.list_recent(conn, limit)
        return [await view_run(conn, one) for one in found]

    views = run_in_transaction(load_settings(), recent)
    if as_json:
        for view in views:
            typer.echo(json_line(view.as_json()))
        return
    console().print(_run_table(views))


@evaluation.command("show")
def show_command(which: RunArgument = None, *, as_json: JsonOption = False) -> None:
    """Show a run's main figures and alerts; exit status as for `eval run`."""
    from producer.evaluation.runs import view_run
    from routoo.settings import load_settings
    from routoo.store.evaluation import eval_runs

    async def load(conn: "AsyncConnection") -> "RunView":
        return await view_run(conn, await eval_runs.find(conn, which))

    _show(run_in_transaction(load_settings(), load), as_json=as_json)


@evaluation.command("report")
def report_command(
    which: RunArgument = None,
    *,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write one self-contained page there."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Model to compare with. (default: the best single one)"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report a graded run: frontier, baselines, calibration, domains, cost, earlier runs.

    What needs every model's answers is measured on the sample of a run with --full.

    Examples:
        routoo-producer eval report nightly --html report.html
        routoo-producer eval report --reference gpt-4 --json
    """
    from producer.evaluation.runs import load_with_past
    from routoo.evaluation.run_scorecard import run_scorecard
    from routoo.settings import load_settings

    measured, past = run_with_database(
        load_settings(), lambda database: load_with_past(database, which)
    )
    card = run_scorecard(measured, past=past, reference=reference)
    if html is not None:
        from routoo.evaluation.report.page import render_page

        html.write_text(render_page(card), encoding="utf-8", errors="replace")
        note(f"written: {html}")
    if as_json:
        import orjson

        options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
        typer.echo(orjson.dumps(asdict(card), option=options), nl=False)
    elif html is None:
        from routoo.console.scorecard_tables import print_scorecard

        print_scorecard(console(), card)


def _show(view: "RunView", *, as_json: bool) -> None:
    if as_json:
        typer.echo(json_line(view.as_json()))
    else:
        _print_run(view)
    if view.run.state == "failed":
        raise typer.Exit(1)
    if view.alerts:
        raise typer.Exit(ALERTED)


def _run_request(settings: "Settings", options: EvalRunOptions) -> "RunRequest":
    from routoo.domain.batch_options import CallOptions
    from routoo.evaluation_runs.begin import RunRequest, check_budgets

    if options.answers and not options.recorded:
        raise InputError(
            "there are no outcomes beside the answers", remedy="Give --recorded OUTCOMES too"
        )
    pool = options.candidates(settings)
    request = RunRequest(
        pool,
        name=options.name,
        budget_usd=options.budget(),
        objective=options.objective(pool),
        call_options=CallOptions(**options.call_facts(pool.names)),
        sample_size=options.sample_size,
        sample_budget_usd=options.sample_budget(),
        recorded=bool(options.recorded),
        judge=options.judge_facts(pool),
    )
    check_budgets(request)
    return request


def _run_table(views: "Sequence[RunView]") -> FittedTable:
    """Return a table of runs, a line each; ids are cut to what tells them apart."""
    table = FittedTable(*_RUN_COLUMNS)
    shown = formatting.short_ids([view.run.id for view in views])
    for view in views:
        figures = view.run.figures or {}
        cost = figures.get("cost_usd")
        table.add_row(
            shown[view.run.id],
            view.name,
            view.eval_set,
            view.run.state,
            _shown(figures.get("quality")),
            "-" if cost is None else formatting.usd(cost),
            str(len(view.alerts)) if view.alerts else "",
            f"{view.run.created_at:%Y-%m-%d %H:%M} UTC",
        )
    return table


def _print_run(view: "RunView") -> None:
    """Print a run's main figures with their intervals, and its alerts."""
    run, figures = view.run, view.run.figures
    screen = console()
    screen.print(f"run {run.id}: {view.eval_set}, {run.state}", highlight=False)
    aim = formatting.describe_objective(view.objective, view.budget_usd)
    screen.print(f"aim {aim}", highlight=False)
    if run.error:
        screen.print(run.error, highlight=False)
    if figures is not None:
        screen.print(
            f"{figures['items']:,} items, {figures['answered']:,} answered,"
            f" {figures['ungraded']:,} ungraded, {figures['sampled']:,} sampled;"
            f" {formatting.usd(figures['cost_usd'])} spent,"
            f" {formatting.usd(figures['sample_cost_usd'])} on the sample",
            highlight=False,
        )
        screen.print(_figure_table(figures))
        screen.print(_model_table(figures["models"]))
        for line in _comparison_lines(figures):
            screen.print(line, highlight=False)
    for alert in view.alerts:
        screen.print(f"alert: {alert.message}", highlight=False)


def _comparison_lines(figures: Mapping[str, Any]) -> Iterator[str]:
    """Say how answers were judged, and what else the money buys."""
    cascade = figures.get("cascade")
    if cascade:
        yield (
            f"judged answers: {cascade['accepted']:,} accepted "
            f"({_shown(cascade['acceptance_precision'])} of them right), "
            f"{cascade['escalated']:,} escalated ({cascade['escalation_share']:.1%}), "
            f"{cascade.get('kept', 0):,} kept"
        )
    planned = figures.get("planned") or {}
    if planned.get("best_single") is not None:
        yield (
            f"planned: {formatting.percent(planned['quality'])}; at the same cost the best single "
            f"model, {planned['best_single']}: {formatting.percent(planned['best_single_quality'])}"
        )
    if planned.get("unjudged_quality") is not None:
        without = formatting.percent(planned["unjudged_quality"])
        yield f"planned without judging answers, at the same cost: {without}"
    same = figures.get("same_cost")
    if same:
        if same["best_single"] is not None:
            yield (
                f"measured on {same['items']:,} items at the same cost: "
                f"{_difference(same['over_single'])} over {same['best_single']}, the best single "
                "model"
            )
        if same["over_unjudged"]["mean"] is not None:
            yield (
                f"judging answers brought {_difference(same['over_unjudged'])} over choosing by "
                "the prompt alone, at the same cost"
            )


def _difference(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:+.3f} [{found['low']:+.3f} to {found['high']:+.3f}]"


def _figure_table(figures: Mapping[str, Any]) -> FittedTable:
    table = FittedTable(
        TableColumn(title="figure", least=16, fold=True),
        TableColumn(title="mean", right=True),
        TableColumn(title="95 % interval", right=True),
        TableColumn(title="items", rank=1, right=True),
    )
    for key, name in _FIGURES:
        found = figures[key]
        between = "-"
        if found["low"] is not None:
            between = f"{found['low']:.4g} to {found['high']:.4g}"
        table.add_row(name, _shown(found), between, str(found["items"]))
    return table


def _model_table(models: Sequence[Mapping[str, Any]]) -> FittedTable:
    table = FittedTable(
        TableColumn(title="model", least=20, fold=True),
        TableColumn(title="answers", right=True),
        TableColumn(title="alone, on the sample", rank=1, right=True),
    )
    for model in models:
        alone = _shown(model["sample_quality"])
        table.add_row(model["model"], f"{model['answers']:,}", alone)
    return table


def _shown(found: Mapping[str, Any] | None) -> str:
    return "-" if not found or found["mean"] is None else f"{found['mean']:.4g}"
