"""`routoo collect`: run every candidate model over a prompt file and grade the answers."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    from decimal import Decimal

    from rich.table import Table

    from routoo.domain.items import Item
    from routoo.domain.pool import CandidateModel
    from routoo.evaluation.collect import Failure, RequestForm
    from routoo.evaluation.item_grading import CollectedOutcome, ModelSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectOptions:
    """Options of `routoo collect`."""

    items: Annotated[
        list[Path], typer.Option(help="Items table (Parquet or JSONL); can be repeated.")
    ]
    out: Annotated[Path, typer.Option(help="Outcomes table to write (Parquet).")]
    pool: PoolFileOption = None
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="Only this candidate model; can be repeated."),
    ] = None
    models: Annotated[str | None, typer.Option(hidden=True)] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N items.")] = None
    max_tokens: MaxTokensOption = None
    system: SystemOption = None
    instruction: InstructionOption = None
    budget_usd: Annotated[
        str | None,
        typer.Option(metavar="X", help="Most that this run's calls may cost together, in USD."),
    ] = None
    ungraded: Annotated[
        bool,
        typer.Option("--ungraded", help="Ask items without a reference too; they get no score."),
    ] = False
    answers: Annotated[
        Path | None,
        typer.Option(help="Table of the answers to write; OUT with _answers in its name if unset."),
    ] = None
    keep_answers: Annotated[bool, typer.Option(help="Add a column with the answers.")] = False
    json_out: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False

    @property
    def named_models(self) -> list[str]:
        """Names of the models to ask, as typed; --models has them with commas."""
        return [*(self.model or ()), *(self.models.split(",") if self.models is not None else ())]


@dataclass(frozen=True, slots=True)
class _Questions:
    """Which items are put to which models, how, and where the answers go."""

    items: "Sequence[Item]"
    models: "Sequence[CandidateModel]"
    form: "RequestForm"
    out: Path
    budget_usd: "Decimal | None"

    @property
    def log(self) -> Path:
        return self.out.with_name(f"{self.out.name}.journal.jsonl")


@with_options(CollectOptions)
def collect(options: CollectOptions) -> None:
    """Ask every candidate model every question, grade the answers, write an outcomes table.

    What the calls may cost is printed first. With --budget-usd, none is sent whose worst case the
    money left does not cover.

    Answers are kept beside the table as they arrive: run the same command again after an
    interruption or failures, and only what is missing is asked. A second table keeps what the
    models said, with a summary of token probabilities where the pool asks for them: `routoo train
    --answers` learns from it to judge answers.
    """
    import asyncio

    from routoo.console.output import note
    from routoo.domain.tables import write_outcomes
    from routoo.evaluation.answer_log import write_answers
    from routoo.evaluation.item_grading import to_answers, to_outcomes

    questions = _questions(options)
    try:
        rows, failures = asyncio.run(_ask(questions))
    except KeyboardInterrupt:
        note(f"Stopped; answers so far are in {questions.log}. Run again to go on.")
        raise typer.Exit(INTERRUPTED) from None
    answers = [row.answer.answer for row in rows] if options.keep_answers else None
    write_outcomes(options.out, to_outcomes(rows), answers=answers)
    write_answers(options.answers or _beside(options.out), to_answers(rows))
    summaries = _summarise(questions, rows, failures)
    if options.json_out:
        _print_json(questions, summaries, failures)
    else:
        _print_summary(questions, summaries, len(rows), failures)
    if failures:
        raise typer.Exit(INCOMPLETE)


def _beside(out: Path) -> Path:
    """Return where the answers go unless something else is said."""
    return out.with_name(f"{out.stem}_answers{out.suffix}")


def _questions(options: CollectOptions) -> _Questions:
    from routoo.domain.pool_file import load_pool
    from routoo.domain.tables import read_items
    from routoo.evaluation.collect import RequestForm
    from routoo.evaluation.item_grading import check_gradable, check_referenced
    from routoo.settings import load_settings

    items = read_items(*options.items)[: options.limit]
    if not options.ungraded:
        check_referenced(items)
    check_gradable(items)
    pool = load_pool(options.pool or load_settings().pool)
    form = RequestForm(options.system, options.instruction, options.max_tokens)
    models = _named_models(pool.models, options.named_models)
    return _Questions(items, models, form, options.out, read_budget(options.budget_usd))


def _named_models(
    pool: "Sequence[CandidateModel]", named: "Sequence[str]"
) -> "Sequence[CandidateModel]":
    from routoo.errors import InputError

    if not named:
        return pool
    by_name = {model.name: model for model in pool}
    names = [name for name in map(str.strip, named) if name]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise InputError(
            "no such model in the pool",
            value=", ".join(unknown) or ", ".join(named),
            where="--model",
            remedy=f"Choose from {', '.join(by_name)}",
        )
    return [by_name[name] for name in names]


async def _ask(questions: _Questions) -> "tuple[list[CollectedOutcome], list[Failure]]":
    """Ask what is not answered yet, a progress bar for each model, and grade all answers."""
    from routoo.client.endpoints import ChatEndpoints
    from routoo.client.http import HttpClient
    from routoo.evaluation.answer_log import AnswerLog
    from routoo.evaluation.call_budget import BudgetedClient
    from routoo.evaluation.collect import Collection
    from routoo.settings import load_settings

    items, models = questions.items, questions.models
    with (
        AnswerLog(questions.log) as log,
        answers_progress([model.name for model in models], len(items)) as advance,
    ):
        http = HttpClient(blocked=load_settings().blocked_networks)
        async with ChatEndpoints(models, http=http) as client:
            budgeted = BudgetedClient(client, questions.budget_usd)
            collection = Collection(budgeted, log, questions.form, on_answer=advance)
            announce(collection, items, models, questions.budget_usd, advance)
            failures = await collection.run(items, models)
        return graded_answers(collection, items, models), failures


def _summarise(
    questions: _Questions, rows: "Sequence[CollectedOutcome]", failures: "Sequence[Failure]"
) -> "list[ModelSummary]":
    from collections import Counter

    from routoo.evaluation.item_grading import summarise

    failed = Counter(failure.model for failure in failures)
    return [
        summarise(name, [row for row in rows if row.answer.model == name], failed[name])
        for name in (model.name for model in questions.models)
    ]


def _print_json(
    questions: _Questions, summaries: "Sequence[ModelSummary]", failures: "Sequence[Failure]"
) -> None:
    from routoo.console.output import json_line

    summary = {
        "out": str(questions.out),
        "items": len(questions.items),
        "models": [asdict(entry) for entry in summaries],
        "failures": [asdict(failure) for failure in failures],
    }
    typer.echo(json_line(summary))


def _print_summary(
    questions: _Questions,
    summaries: "Sequence[ModelSummary]",
    outcomes: int,
    failures: "Sequence[Failure]",
) -> None:
    from routoo.console.output import console

    screen = console()
    screen.print(_table(summaries))
    screen.print(f"{outcomes} outcomes in {questions.out}")
    note_failures(failures)


def _table(summaries: "Sequence[ModelSummary]") -> "Table":
    from routoo.console.output import report_table

    table = report_table(
        "model", "score", "answers", "ungraded", "failed", "tokens", "USD", "median s"
    )
    for entry in summaries:
        table.add_row(
            entry.model,
            _number(entry.score, ".3f"),
            str(entry.answers),
            str(entry.ungraded),
            str(entry.failed),
            _number(entry.completion_tokens, ".1f"),
            f"{entry.cost_usd:.6f}",
            _number(entry.latency_s, ".2f"),
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
