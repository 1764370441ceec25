"""Running every candidate model over a prompt file, and grading the answers."""

import asyncio
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from routoo.cli.collect_options import CollectOptions
from routoo.client.endpoints import ChatEndpoints
from routoo.console.output import console, messages, report_table
from routoo.domain.items import Item
from routoo.domain.pool import CandidateModel
from routoo.domain.pool_file import load_pool
from routoo.domain.tables import read_items, write_outcomes
from routoo.errors import InputError
from routoo.evaluation.answer_log import AnswerLog
from routoo.evaluation.collect import Collection, Failure, RequestForm
from routoo.evaluation.item_grading import (
    CollectedOutcome,
    ModelSummary,
    check_gradable,
    collected_outcome,
    summarise,
    to_outcomes,
)
from routoo.settings import load_settings

EXIT_SOME_FAILED = 5
EXIT_INTERRUPTED = 130
FAILURES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Run:
    """What is asked of whom, and where answers go."""

    items: Sequence[Item]
    models: Sequence[CandidateModel]
    form: RequestForm
    out: Path

    @property
    def log(self) -> Path:
        return self.out.with_name(f"{self.out.name}.journal.jsonl")


def collect_outcomes(options: CollectOptions) -> None:
    """Ask what is not yet answered, grade, and write and sum up the outcomes.

    Raises:
        InputError: The items or the named models don't do.
        typer.Exit: Interrupted, or some calls failed.
    """
    asked = read_items(*options.items)[: options.limit]
    check_gradable(asked)
    candidates = _candidates(load_pool(options.pool or load_settings().pool).models, options.models)
    run = _Run(
        asked,
        candidates,
        RequestForm(options.system, options.instruction, options.max_tokens),
        options.out,
    )
    try:
        rows, failures = asyncio.run(_collect(run))
    except KeyboardInterrupt:
        messages().print(f"Stopped; answers so far are in {run.log}. Run again to go on.")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    write_outcomes(
        options.out,
        to_outcomes(rows),
        answers=[row.answer.answer for row in rows] if options.keep_answers else None,
    )
    _report(run, rows, failures, as_json=options.json_out)
    if failures:
        raise typer.Exit(EXIT_SOME_FAILED)


def _candidates(pool: Sequence[CandidateModel], named: str | None) -> Sequence[CandidateModel]:
    if named is None:
        return pool
    by_name = {model.name: model for model in pool}
    names = [name.strip() for name in named.split(",") if name.strip()]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise InputError(
            "no such model in the pool",
            value=", ".join(unknown) or named,
            where="--models",
            remedy=f"Choose from {', '.join(by_name)}",
        )
    return [by_name[name] for name in names]


async def _collect(run: _Run) -> tuple[list[CollectedOutcome], list[Failure]]:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with (
        AnswerLog(run.log) as log,
        Progress(*columns, TimeRemainingColumn(), console=messages()) as bar,
    ):
        async with ChatEndpoints(run.models) as client:
            tasks = {
                model.name: bar.add_task(model.name, total=len(run.items)) for model in run.models
            }
            collection = Collection(
                client, log, run.form, on_answer=lambda model: bar.advance(tasks[model])
            )
            for item in run.items:
                for model in run.models:
                    bar.advance(tasks[model.name], collection.answered(item, model) is not None)
            failures = await collection.run(run.items, run.models)
        return list(_graded(run, collection)), failures


def _graded(run: _Run, collection: Collection) -> Sequence[CollectedOutcome]:
    pairs = ((item, model) for item in run.items for model in run.models)
    found = ((item, model, collection.answered(item, model)) for item, model in pairs)
    return [collected_outcome(item, model, answer) for item, model, answer in found if answer]


def _report(
    run: _Run, rows: Sequence[CollectedOutcome], failures: Sequence[Failure], *, as_json: bool
) -> None:
    failed = Counter(failure.model for failure in failures)
    summaries = [
        summarise(
            model.name,
            [row for row in rows if row.answer.model == model.name],
            failed[model.name],
        )
        for model in run.models
    ]
    if as_json:
        summary = {
            "out": str(run.out),
            "items": len(run.items),
            "models": [asdict(entry) for entry in summaries],
            "failures": [asdict(failure) for failure in failures],
        }
        sys.stdout.write(orjson.dumps(summary).decode() + "\n")
        return
    screen, remarks = console(), messages()
    screen.print(_table(summaries))
    screen.print(f"{len(rows)} outcomes in {run.out}")
    for failure in failures[:FAILURES_SHOWN]:
        line = f"failed: {failure.item_id}, {failure.model}: {failure.message}"
        remarks.print(line, highlight=False)
    if len(failures) > FAILURES_SHOWN:
        remarks.print(f"... and {len(failures) - FAILURES_SHOWN} more failures")


def _table(summaries: Sequence[ModelSummary]) -> Table:
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
