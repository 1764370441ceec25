"""`routoo onboard`: bring a pool of models into use in one budgeted command."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routoo.cli.asking import (
    InstructionOption,
    MaxTokensOption,
    PoolFileOption,
    SystemOption,
    announce,
    answers_progress,
    graded_answers,
    note_failures,
    read_budget,
)
from routoo.console.commands import with_options
from routoo.console.run import INCOMPLETE, INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from decimal import Decimal

    from rich.table import Table

    from routoo.domain.items import Item
    from routoo.domain.pool import Pool
    from routoo.evaluation.collect import Failure, RequestForm
    from routoo.evaluation.item_grading import CollectedOutcome
    from routoo.settings import Settings
    from routoo.store.database import Database
    from routoo.training.onboard import GradedPool, Onboarded


@dataclass(frozen=True, slots=True, kw_only=True)
class OnboardOptions:
    """Options of `routoo onboard`."""

    items: Annotated[
        list[Path] | None,
        typer.Option(help="Questions with answers (Parquet or JSONL); can be repeated."),
    ] = None
    budget_usd: Annotated[
        str | None,
        typer.Option(
            metavar="X", help="Most that the calls of this and of stopped runs may cost, in USD."
        ),
    ] = None
    pool: PoolFileOption = None
    from_runs: Annotated[
        bool,
        typer.Option("--from-runs", help="Learn from graded answers of batches and runs, too."),
    ] = False
    limit: Annotated[int | None, typer.Option(min=1, help="Ask at most N items.")] = None
    max_tokens: MaxTokensOption = None
    system: SystemOption = None
    instruction: InstructionOption = None
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of answers and checkpoints; under ROUTOO_HOME if unset."),
    ] = None
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto"
    json_out: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is asked, how, and where everything goes."""

    pool: "Pool"
    items: "Sequence[Item]"
    form: "RequestForm"
    budget_usd: "Decimal"
    work: Path


@with_options(OnboardOptions)
def onboard(options: OnboardOptions) -> None:
    """Ask a pool's models graded questions within a budget, learn from them, and put that into use.

    What it may cost is printed first. All models are asked the same questions, in a fixed random
    order, as many as the budget covers. The answers update what the general checkpoint takes the
    models for; with 200 questions or more a predictor of the pool's own is fitted, too, and used if
    it predicts better. The same command goes on after Ctrl-C or a crash: no question is paid for
    twice, and the budget covers all its runs.

    Examples:
        routoo onboard --pool pool.yaml --items questions.jsonl --budget-usd 2

        routoo onboard --pool pool.yaml --from-runs
    """
    from routoo.console.output import ConsoleFeedback, json_line
    from routoo.console.run import run_with_database
    from routoo.settings import load_settings

    settings, feedback = load_settings(), ConsoleFeedback()
    plan = _plan(options, settings)
    rows, failures, spent_usd = _asked(plan)
    graded = _graded(options, settings, plan, rows)
    onboarded = _learn(graded, settings, plan.work, options.device)
    report = _report(plan, onboarded, rows, failures)

    async def put(database: "Database") -> tuple[str, bool]:
        from routoo.training.onboard import put_into_use
        from routoo.training.onboard_report import routes_worse

        worse = routes_worse(report["routed"])
        found, used = await put_into_use(
            database, onboarded, settings, feedback, routes_worse=worse
        )
        return found.weights_sha256, used

    weights, used = run_with_database(settings, put)
    report |= {"spent_usd": spent_usd, "weights_sha256": weights, "in_use": used}
    if options.json_out:
        typer.echo(json_line(report))
    else:
        _print(report, options.pool)
    note_failures(failures)
    if failures:
        raise typer.Exit(INCOMPLETE)


def _plan(options: OnboardOptions, settings: "Settings") -> _Plan:
    from decimal import Decimal

    from routoo.domain.pool_file import load_pool
    from routoo.domain.tables import read_items
    from routoo.errors import InputError
    from routoo.evaluation.collect import RequestForm, asking_order
    from routoo.evaluation.item_grading import check_gradable, check_referenced

    if not options.items and not options.from_runs:
        raise InputError("there is nothing to learn from", remedy="Give --items, or --from-runs")
    if options.items and options.budget_usd is None:
        raise InputError("the calls need a budget", remedy="Give --budget-usd, such as 2")
    path = options.pool or settings.pool
    pool = load_pool(path)
    items = read_items(*options.items) if options.items else []
    check_referenced(items)
    check_gradable(items)
    form = RequestForm(options.system, options.instruction, options.max_tokens)
    work = options.work or settings.home / "onboard" / path.stem
    asked = asking_order(items)[: options.limit]
    return _Plan(pool, asked, form, read_budget(options.budget_usd) or Decimal(0), work.absolute())


def _asked(plan: _Plan) -> "tuple[list[CollectedOutcome], list[Failure], Decimal]":
    import asyncio
    from decimal import Decimal

    from routoo.console.output import note

    if not plan.items:
        return [], [], Decimal(0)
    try:
        return asyncio.run(_ask(plan))
    except KeyboardInterrupt:
        note(f"Stopped; answers so far are in {plan.work}. Run the same command to go on.")
        raise typer.Exit(INTERRUPTED) from None


async def _ask(plan: _Plan) -> "tuple[list[CollectedOutcome], list[Failure], Decimal]":
    """Ask what is not answered yet, and grade all answers; return what all runs spent, too."""
    from contextlib import closing

    from routoo.client.endpoints import ChatEndpoints
    from routoo.client.http import HttpClient
    from routoo.console.output import note
    from routoo.evaluation.answer_log import AnswerLog
    from routoo.evaluation.call_budget import BudgetedClient, SpendingLog
    from routoo.evaluation.collect import Collection, ask_evenly
    from routoo.settings import load_settings

    models, budget_usd = plan.pool.models, plan.budget_usd
    names = [model.name for model in models]
    with (
        AnswerLog(plan.work / "answers.jsonl") as log,
        closing(SpendingLog(plan.work / "spending.jsonl")) as spending,
        answers_progress(names, len(plan.items)) as advance,
    ):
        http = HttpClient(blocked=load_settings().blocked_networks)
        async with ChatEndpoints(models, http=http) as endpoints:
            client = BudgetedClient(endpoints, budget_usd, spending)
            collection = Collection(client, log, plan.form, on_answer=advance)
            announce(collection, plan.items, models, budget_usd, advance)
            if spending.spent_usd:
                note(f"${spending.spent_usd:f} of it were spent by earlier runs")
            failures = await ask_evenly(collection, client, plan.items, models, budget_usd)
        rows = graded_answers(collection, plan.items, models)
    asked = len({row.answer.item_id for row in rows})
    note(f"{len(rows)} answers to {asked} of {len(plan.items)} items; ${client.spent_usd:f} spent")
    return rows, failures, client.spent_usd


def _graded(
    options: OnboardOptions,
    settings: "Settings",
    plan: _Plan,
    rows: "Sequence[CollectedOutcome]",
) -> "GradedPool":
    """Return the pool with its graded answers, those of the database too where they are wanted."""
    from routoo.console.output import ConsoleFeedback
    from routoo.console.run import run_with_database
    from routoo.domain.tables import OutcomeTables
    from routoo.evaluation.item_grading import to_answers, to_outcomes
    from routoo.training.onboard import GradedPool
    from routoo.training.tables import add_graded_answers

    answered = {row.answer.item_id for row in rows}
    items = tuple(item for item in plan.items if item.item_id in answered)
    tables = OutcomeTables(items, to_outcomes(rows), tuple(to_answers(rows)))
    if options.from_runs:
        files = tables if items else None
        tables = run_with_database(
            settings, lambda database: add_graded_answers(database, files, ConsoleFeedback())
        )
    return GradedPool(plan.pool, tables)


def _learn(graded: "GradedPool", settings: "Settings", work: Path, device: str) -> "Onboarded":
    from routoo.console.output import ConsoleFeedback
    from routoo.console.run import run_with_database
    from routoo.training.onboard import base_checkpoint, learn_pool
    from routoo.training.predictor_settings import PredictorSettings

    base = run_with_database(settings, base_checkpoint)
    made_with = PredictorSettings(cache=settings.embeddings, device=device)
    return learn_pool(graded, work, made_with, base, ConsoleFeedback())


def _report(
    plan: _Plan,
    onboarded: "Onboarded",
    rows: "Sequence[CollectedOutcome]",
    failures: "Sequence[Failure]",
) -> dict[str, Any]:
    from routoo.training.onboard_report import describe_models, routed_gain

    return {
        "checkpoint": str(onboarded.folder),
        "made_of": onboarded.made_of,
        "items": len(onboarded.matrix.items),
        "has_subjects": any(item.subject for item in onboarded.matrix.items),
        "failures": len(failures),
        "models": describe_models(onboarded, rows),
        "brier": {name: onboarded.brier(name) for name in onboarded.quality},
        "routed": routed_gain(onboarded, plan.pool),
    }


def _print(report: dict[str, Any], pool: Path | None) -> None:
    from routoo.console.output import console

    screen = console()
    screen.print(_table(report))
    for line in (*_table_notes(report), *_gain_lines(report)):
        screen.print(line)
    if not report["in_use"]:
        screen.print(f"{report['checkpoint']}: registered, not in use")
        return
    screen.print(f"{report['checkpoint']}: in use for batches that are planned from now on")
    named = "" if pool is None else f" --pool {pool}"
    screen.print(
        f"Next: routoo-producer run prompts.jsonl{named} --budget-usd 1 --out answers.jsonl "
        "--name again"
    )


def _table(report: dict[str, Any]) -> "Table":
    from routoo.console.output import report_table

    subjects = ("good at", "weak at") if report["has_subjects"] else ()
    table = report_table(
        *("model", "before", "answers", "score", "easy", "middle", "hard"),
        *(*subjects, "USD/1000"),
    )
    for one in report["models"]:
        mark = "" if one["thirds_in_order"] else "~"
        thirds = (mark + _share(one["by_difficulty"][name]) for name in ("easy", "middle", "hard"))
        before = one["prior"]["now"]
        price = one["usd_per_1000"]
        table.add_row(
            one["model"],
            _interval(before["quality"], before["low"], before["high"]),
            str(one["answers"]),
            _interval(one["score"], one["low"], one["high"]),
            *thirds,
            *(", ".join(one[name.replace(" ", "_")]) or "-" for name in subjects),
            "-" if price is None else f"{price:.4f}",
        )
    return table


def _table_notes(report: dict[str, Any]) -> list[str]:
    """Return what a reader of the table must know to read it rightly."""
    notes = []
    if not all(one["thirds_in_order"] for one in report["models"]):
        notes.append(
            f"~ not in order of difficulty: {report['items'] // 3} questions a third are too few, "
            "or the expected difficulty doesn't tell for this model; don't go by these columns"
        )
    if not report["has_subjects"]:
        notes.append("give each question a `subject` to see what each model is good at")
    return notes


def _gain_lines(report: dict[str, Any]) -> list[str]:
    """Return in words what the answers improved, on answers held out."""
    brier, made_of = report["brier"], report["made_of"]
    moved = "fell" if brier[made_of] < brier["prior"] else "did not fall"
    error = (
        f"the error of predicted quality {moved}: {brier['prior']:.3f} by priors alone, "
        f"{brier[made_of]:.3f} with these answers (mean squared, held out)"
    )
    lines = [error]
    routed = report["routed"]
    if routed is not None:
        quality, gain, single = routed["quality"], routed["gain"], routed["single"]
        lines.append(
            f"{_verdict(routed)}: mean quality {quality['prior']:.3f} by priors alone, "
            f"{quality[made_of]:.3f} with these answers, under the same budgets (held out; the "
            f"difference is {gain['low']:+.3f} to {gain['high']:+.3f} at 95 %); the best random "
            f"mix of models, known afterwards, has {routed['mix']:.3f}, the best single model of "
            f"each cost ({', then '.join(single['models'])}) {single['quality']:.3f}"
        )
    return lines


def _verdict(routed: dict[str, Any]) -> str:
    """Say whether routing improved, as far as so many questions can tell."""
    if routed["gain"]["low"] > 0:
        return "routing improved"
    if routed["gain"]["high"] < 0:
        return "routing became worse"
    return f"{routed['items']} questions are too few to tell whether routing improved"


def _interval(value: float, low: float, high: float) -> str:
    return f"{_share(value)} ({_share(low)} to {_share(high)})"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
