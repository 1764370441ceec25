"""`routoo-producer results`: show or export the answers of a batch."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from producer.commands.options import BatchArgument, JsonOption, StrictOption
from producer.results.formats import Export, ResultFormat, chosen_export
from routoo.console import formatting
from routoo.console.commands import with_options
from routoo.console.output import FittedTable, TableColumn, console, json_line, note
from routoo.console.run import run_in_transaction, run_with_database
from routoo.domain.job import BatchStatus
from routoo.errors import InputError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from producer.progress import Snapshot
    from producer.results.export import Exported
    from producer.results.join import Joined, JoinedInput
    from routoo.settings import Settings
    from routoo.store.batches.records import BatchRecord
    from routoo.store.database import Database
    from routoo.store.results import ResultRecord

_COLUMNS = (
    TableColumn(title="custom_id", least=16),
    TableColumn(title="status"),
    TableColumn(title="model", least=20),
    TableColumn(title="answer", least=24, first=True),
    TableColumn(title="expected", rank=3, right=True),
    TableColumn(title="graded", rank=1, right=True),
    TableColumn(title="cost", rank=2, right=True),
    TableColumn(title="latency", rank=4, right=True),
)
_LONGEST_ANSWER = 60
_ON_INTERRUPT = "The batch goes on. `routoo-producer results` has all its results so far."


class JoinKey(StrEnum):
    """What tells which result a row of the input has."""

    ID = "id"
    ROW = "row"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """The input that results are joined to."""

    join: Annotated[
        str | None,
        typer.Option(
            metavar="INPUT",
            help="File or dataset's folder that was submitted: its rows and columns come first, "
            "then their results.",
        ),
    ] = None
    join_by: Annotated[
        JoinKey,
        typer.Option(help="--join: a row's result is that of its custom_id, or of its place."),
    ] = JoinKey.ID
    id_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="--join: column of the custom_ids. (default: custom_id)"
        ),
    ] = None
    subset: Annotated[
        str | None, typer.Option(metavar="NAME", help="--join: part of a dataset's folder.")
    ] = None
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="--join: split of a dataset's folder.")
    ] = None

    def joined(self) -> "JoinedInput | None":
        """Return the input to join; None where none is.

        Raises:
            InputError: There is none, or an option of it is given without it.
        """
        if self.join is None:
            if self != JoinOptions():
                raise InputError("there is no --join that this is for", remedy="Give both")
            return None
        from producer.results.join import JoinedInput
        from producer.rows.source import Source

        source = Source.of(self.join).reading(subset=self.subset, split=self.split)
        return JoinedInput(source, self.join_by is JoinKey.ROW, self.id_column)


FormatOption = Annotated[
    ResultFormat | None,
    typer.Option("--format", help="Format. (default: by the suffix of --out, else a table)"),
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write here. (default: standard output)")
]
ErrorsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="JSONL: failed jobs. (default: with --out, FILE.errors.jsonl beside it)",
    ),
]
RowsOption = Annotated[int, typer.Option(min=1, metavar="N", help="Rows of the table.")]
FollowOption = Annotated[
    bool,
    typer.Option("--follow", "-f", help="Write each result as it comes, until the batch is over."),
]


@with_options(JoinOptions)
def results_command(
    batch: BatchArgument = None,
    *,
    options: JoinOptions,
    result_format: FormatOption = None,
    out: OutOption = None,
    errors: ErrorsOption = None,
    rows: RowsOption = 20,
    follow: FollowOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print or write the results of a batch so far, in input order.

    JSONL has the lines of an OpenAI Batch output file, with the failed jobs in a file of their own;
    CSV and Parquet have the columns of the view batch_results. A file is replaced whole or not at
    all. --json prints, without --out, one object a result, and with --out what was written.

    With --follow, results come in the order in which jobs end, as JSONL (failed jobs too) or CSV,
    and the exit status is that of `watch`: 0, 5 or 8, with --strict 7.

    Examples:
        routoo-producer results
        routoo-producer results monday --out answers.jsonl --errors failures.jsonl
        routoo-producer results monday --join reviews.csv --out answered.csv
        routoo-producer results monday --follow | jq -r .custom_id
        routoo-producer results 3f2a --format csv | head
    """
    from routoo.settings import load_settings

    settings, joined = load_settings(), options.joined()
    _check_together(joined, errors, follow=follow)
    if follow:
        wanted = _followed(result_format, out)
        _follow(settings, batch, wanted, as_json=as_json, strict=strict)
    elif joined is not None:
        wanted = _table_to_jsonl(chosen_export(result_format, out, errors))
        _join(settings, batch, wanted, joined, as_json=as_json)
    else:
        wanted = chosen_export(result_format, out, errors)
        run_in_transaction(
            settings, lambda conn: _write(conn, batch, wanted, rows, as_json=as_json)
        )


def _check_together(joined: "JoinedInput | None", errors: Path | None, *, follow: bool) -> None:
    """Refuse options that exclude each other."""
    if follow and (joined is not None or errors is not None):
        where = "--errors" if errors is not None else "--join"
        what = "--follow writes results as they come"
        raise InputError(what, where=where, remedy="Leave one out")
    if joined is not None and errors is not None:
        what, remedy = "a join has the failed jobs, too", "Leave it out"
        raise InputError(what, where="--errors", remedy=remedy)


async def _write(
    conn: "AsyncConnection", batch: str | None, wanted: Export, rows: int, *, as_json: bool
) -> None:
    from producer.progress import find_batch
    from producer.results.export import export

    record = await find_batch(conn, batch)
    if wanted.format is not ResultFormat.TABLE:
        exported = await export(conn, record, wanted)
        _print_outcome(record, exported, wanted, as_json=as_json)
    elif as_json:
        await _print_rows(conn, record)
    else:
        await _print_table(conn, record, rows)


def _join(
    settings: "Settings", batch: str | None, wanted: Export, joined: "JoinedInput", *, as_json: bool
) -> None:
    from producer.progress import find_batch
    from producer.results.join import export_joined

    async def write(conn: "AsyncConnection") -> "tuple[BatchRecord, Joined]":
        record = await find_batch(conn, batch)
        return record, await export_joined(conn, record, wanted, joined)

    record, done = run_in_transaction(settings, write)
    matched = done.counts.total()
    _note_written(done.rows, wanted, as_json=as_json)
    if as_json and wanted.out is not None:
        counts = {str(status): n for status, n in done.counts.items()}
        facts = {"batch_id": str(record.id), "out": str(wanted.out), "rows": done.rows}
        typer.echo(json_line({**facts, "unreadable": done.unreadable, "results": counts}))
    if matched < done.rows:
        note(f"{done.rows - matched:,} of {done.rows:,} rows have no result")
    if done.unreadable:
        note(f"{done.unreadable:,} rows can't be read and were left out")
    if matched < record.job_count:
        note(f"{record.job_count - matched:,} of {record.job_count:,} jobs are not among them")


def _table_to_jsonl(wanted: Export) -> Export:
    """Return what is written where no format is named: a table is for looking at a few results."""
    if wanted.format is not ResultFormat.TABLE:
        return wanted
    return replace(wanted, format=ResultFormat.JSONL)


def _followed(result_format: ResultFormat | None, out: Path | None) -> Export:
    if result_format is None and out is None:
        return Export(ResultFormat.JSONL)
    wanted = chosen_export(result_format, out, None)
    if wanted.format not in {ResultFormat.JSONL, ResultFormat.CSV}:
        raise InputError(
            f"a {wanted.format} can't be written row by row",
            where="--follow",
            remedy="Choose jsonl or csv, or leave --follow out",
        )
    return wanted


def _follow(
    settings: "Settings", batch: str | None, wanted: Export, *, as_json: bool, strict: bool
) -> None:
    from producer.commands.status import end_as
    from producer.screen.progress import end_note

    async def follow(database: "Database") -> "Snapshot":
        from producer.progress import find_batch
        from producer.results.follow import follow_results
        from routoo.store import batches

        async with database.transaction() as conn:
            record = await find_batch(conn, batch)
        if record.status in {BatchStatus.PLANNING, BatchStatus.PLANNED}:
            what, remedy = "a plan has no results", f"`routoo-producer submit --plan {record.id}`"
            raise InputError(what, value=str(record.id), remedy=remedy)

        async def is_over() -> bool:
            async with database.transaction() as conn:
                return (await batches.get(conn, record.id)).status.is_over

        blocks = follow_results(database, record.id, record.job_count, is_over, in_order=False)
        with _following(record, wanted, as_json=as_json) as write:
            async with aclosing(blocks):
                async for block in blocks:
                    write(block)
        return await _last_snapshot(database, record)

    last = run_with_database(settings, follow, on_interrupt=_ON_INTERRUPT)
    _note_written(last.progress.ended, wanted, as_json=False)
    why = end_note(last, strict=strict)
    if why is not None:
        note(why)
    end_as(last, strict=strict)


def _note_written(rows: int, wanted: Export, *, as_json: bool) -> None:
    """Say what went to a file; --json says it by itself."""
    if wanted.out is not None and not as_json:
        note(f"{rows:,} {'row' if rows == 1 else 'rows'} written: {wanted.out}")


async def _last_snapshot(database: "Database", record: "BatchRecord") -> "Snapshot":
    """Return how a batch that is over ended."""
    from producer.progress import follow

    return [snapshot async for snapshot in follow(database, record)][-1]


@contextmanager
def _following(
    record: "BatchRecord", wanted: Export, *, as_json: bool
) -> "Iterator[Callable[[Sequence[ResultRecord]], None]]":
    """Yield what writes results at once, so that a reader of the file or the pipe sees them."""
    from producer.results.export import CsvWriter, output_line

    with ExitStack() as files:
        stream: BinaryIO = sys.stdout.buffer
        if wanted.out is not None:
            stream = files.enter_context(wanted.out.open("wb"))
        table = CsvWriter(stream) if wanted.format is ResultFormat.CSV else None

        def write(block: "Sequence[ResultRecord]") -> None:
            if table is not None:
                table.write(block)
            elif as_json and wanted.out is None:
                stream.writelines(f"{json_line(one.view_row())}\n".encode() for one in block)
            else:
                stream.writelines(output_line(record.id, one) for one in block)
            stream.flush()

        yield write
        if table is not None:
            table.close()
        stream.flush()


async def _print_rows(conn: "AsyncConnection", record: "BatchRecord") -> None:
    from routoo.store import results

    async for result in results.iterate(conn, record.id):
        sys.stdout.write(json_line(result.view_row()) + "\n")


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
    apart = exported.failures if wanted.format is ResultFormat.JSONL else 0
    _note_written(exported.counts.total() - apart, wanted, as_json=as_json)
    if missing:
        note(f"{missing:,} of {record.job_count:,} jobs have not ended")
    if exported.failures and wanted.format is ResultFormat.JSONL:
        where = "left out: name a file with --errors" if errors is None else f"in {errors}"
        note(f"{exported.failures:,} jobs have no answer: {where}")


def _table(records: "Sequence[ResultRecord]") -> FittedTable:
    """Return a table of results, an answer cut to one line."""
    table = FittedTable(*_COLUMNS)
    for record in records:
        table.add_row(
            record.custom_id,
            record.status,
            record.model or "-",
            _one_line(
                record.answer
                if record.answer is not None
                else f"{record.error_code}: {record.error_message}"
            ),
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


def _quality(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
