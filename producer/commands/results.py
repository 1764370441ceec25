"""`routoo-producer results`: show or export the answers of a batch."""

import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from producer.commands.options import BatchArgument, JsonOption
from producer.results.formats import BY_SUFFIX, Export, ResultFormat, failures_beside
from routoo.console import formatting
from routoo.console.fitted_table import FittedTable, TableColumn
from routoo.console.output import console, json_line, note
from routoo.console.run import run_with_database
from routoo.errors import InputError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from producer.results.export import Exported
    from routoo.store.batches.records import BatchRecord
    from routoo.store.database import Database
    from routoo.store.results import ResultRecord

_LONGEST_ANSWER = 60


def results_command(
    batch: BatchArgument = None,
    *,
    result_format: Annotated[
        ResultFormat | None,
        typer.Option("--format", help="Format. (default: by the suffix of --out, else a table)"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write here. (default: standard output)")
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSONL: failed jobs. (default: with --out, FILE.errors.jsonl beside it)",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, metavar="N", help="Rows of the table.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Print or write the results of a batch so far, in input order.

    JSONL has the lines of an OpenAI Batch output file, with the failed jobs in a file of their own;
    CSV and Parquet have the columns of the view batch_results. A file is replaced whole or not at
    all. --json prints, without --out, one object a result, and with --out what was written.

    Examples:
        routoo-producer results
        routoo-producer results monday --out answers.jsonl --errors failures.jsonl
        routoo-producer results 3f2a --format csv | head
    """
    from producer.progress import find_batch
    from producer.results.export import export
    from routoo.settings import load_settings

    wanted = _wanted(result_format, out, errors)

    async def read(database: "Database") -> None:
        async with database.transaction() as conn:
            record = await find_batch(conn, batch)
            if wanted.format is not ResultFormat.TABLE:
                exported = await export(conn, record, wanted)
                _print_outcome(record, exported, wanted, as_json=as_json)
            elif as_json:
                await _print_rows(conn, record)
            else:
                await _print_table(conn, record, rows)

    run_with_database(load_settings(), read)


def _wanted(result_format: ResultFormat | None, out: Path | None, errors: Path | None) -> Export:
    by_suffix = None if out is None else BY_SUFFIX.get(out.suffix.lower(), ResultFormat.JSONL)
    chosen = result_format or by_suffix or ResultFormat.TABLE
    if chosen is ResultFormat.TABLE and out is not None:
        raise InputError("a table is only for the screen", where="--format", remedy="Choose jsonl")
    if chosen is ResultFormat.PARQUET and out is None and sys.stdout.isatty():
        raise InputError("Parquet is no text", where="--format", remedy="Name a file with --out")
    if errors is None and out is not None and chosen is ResultFormat.JSONL:
        errors = failures_beside(out)
    if errors is not None and chosen is not ResultFormat.JSONL:
        raise InputError(
            "only JSONL has a file of failures",
            where="--errors",
            remedy="Leave it out: CSV and Parquet hold the failed jobs too",
        )
    return Export(chosen, out, errors)


async def _print_rows(conn: "AsyncConnection", record: "BatchRecord") -> None:
    from producer.results.columns import as_row
    from routoo.store import results

    async for result in results.iterate(conn, record.id):
        sys.stdout.write(json_line(as_row(result)) + "\n")


async def _print_table(conn: "AsyncConnection", record: "BatchRecord", rows: int) -> None:
    from routoo.store import results
    from routoo.store.batches.progress import progress

    shown: list[ResultRecord] = []
    async with aclosing(results.iterate(conn, record.id)) as found:
        async for result in found:
            shown.append(result)
            if len(shown) == rows:
                break
    console().print(_table(shown))
    now = await progress(conn, record.id)
    if len(shown) < now.jobs:
        ended = f"{now.ended:,} of {now.jobs:,} jobs have ended"
        note(f"{len(shown):,} shown, {ended}; --rows N shows more, --out FILE writes all")


def _table(records: "Sequence[ResultRecord]") -> FittedTable:
    """Return a table of results, an answer cut to one line."""
    table = FittedTable(
        TableColumn(title="custom_id", least=16),
        TableColumn(title="status"),
        TableColumn(title="model", least=20),
        TableColumn(title="answer", least=24, first=True),
        TableColumn(title="expected", rank=3, right=True),
        TableColumn(title="graded", rank=1, right=True),
        TableColumn(title="cost", rank=2, right=True),
        TableColumn(title="latency", rank=4, right=True),
    )
    for record in records:
        table.add_row(
            record.custom_id,
            record.status,
            record.model or "-",
            _one_line(record.answer if record.answer is not None else _error(record)),
            _quality(record.expected_quality),
            _quality(record.quality),
            formatting.usd(record.cost_usd),
            "-" if record.latency_s is None else f"{record.latency_s:.2f} s",
        )
    return table


def _one_line(text: str) -> str:
    # Answers are a model's: control characters could rewrite the terminal.
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    line = " ".join(line.split())
    return line if len(line) <= _LONGEST_ANSWER else f"{line[: _LONGEST_ANSWER - 3]}..."


def _error(record: "ResultRecord") -> str:
    return f"{record.error_code}: {record.error_message}"


def _quality(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _print_outcome(
    record: "BatchRecord", exported: "Exported", wanted: Export, *, as_json: bool
) -> None:
    errors = wanted.errors if exported.failures else None
    missing = record.job_count - exported.counts.total()
    if as_json and wanted.out is not None:
        facts = {
            "batch_id": str(record.id),
            "out": str(wanted.out),
            "errors": None if errors is None else str(errors),
            "results": {str(status): n for status, n in exported.counts.items()},
            "missing": missing,
        }
        typer.echo(json_line(facts))
    if missing:
        note(f"{missing:,} of {record.job_count:,} jobs have not ended")
    if exported.failures and wanted.format is ResultFormat.JSONL:
        where = "left out: name a file with --errors" if errors is None else f"in {errors}"
        note(f"{exported.failures:,} jobs have no answer: {where}")
