"""Joins a batch's results back to the rows that it was made of, in the rows' order.

The input is read twice: once to learn its columns and what they hold, once to write. Results are
looked up by the rows' custom_ids or numbers, a chunk at a time, so memory doesn't grow with either.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, BinaryIO, Protocol
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from producer.results.export import Exported, inert
from producer.results.formats import Export, ResultFormat
from producer.rows.check import custom_id_of
from producer.rows.formats import RawRow, WantedColumns
from producer.rows.source import Source
from routoo.errors import InputError
from routoo.files import replacing
from routoo.store import jobs, results
from routoo.store.batches import BatchRecord
from routoo.store.batches.progress import progress
from routoo.store.results import VIEW_COLUMNS, ResultRecord

_PREFIX = "result_"
"""Before the name of a result's column that the input has, too."""
_ID = "custom_id"
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class JoinedInput:
    """The input that results are joined to."""

    source: Source
    by_row: bool = False
    """Whether the n-th row is the n-th job, instead of that with its custom_id."""
    id_column: str | None = None
    """Column of the custom_ids; what a submission takes where unset."""

    def chunks(self) -> Iterator[list[RawRow]]:
        """Yield the rows with all their columns.

        Raises:
            InputError: The input can't be read, or comes from a pipe.
        """
        if self.source.path is None:
            raise InputError(
                "standard input can't be read twice", where="--join", remedy="Name a file"
            )
        with self.source.raw_rows(WantedColumns(frozenset())) as (chunks, _):
            yield from chunks


@dataclass(slots=True)
class Joined(Exported):
    """What a join has written."""

    rows: int = 0
    """Rows of the input that were written, each with its result or without one."""
    unreadable: int = 0
    """Rows of the input that could not be read and were left out."""


@dataclass(slots=True)
class _Columns:
    """The input's columns, each with the types of its values; then those of results."""

    kinds: dict[str, set[type]] = field(default_factory=dict)
    rows: int = 0
    unreadable: int = 0

    def add(self, row: RawRow) -> None:
        if not isinstance(row.fields, dict):
            self.unreadable += 1
            return
        self.rows += 1
        for name, value in _cells(row).items():
            kinds = self.kinds.setdefault(name, set())
            if value is not None:
                too_long = type(value) is int and value not in _INT64
                kinds.add(object if too_long else type(value))

    def result_names(self, columns: Sequence[str]) -> dict[str, str]:
        """Return what the columns of results are called, by their own names."""
        own = [name for name in columns if name != _ID or _ID not in self.kinds]
        return {name: self._free(name) for name in own}

    def _free(self, name: str) -> str:
        while name in self.kinds:
            name = _PREFIX + name
        return name


def _cells(row: RawRow) -> Mapping[str, Any]:
    """Return a row's columns: a table's as they stood there, with empty ones."""
    if isinstance(row.raw, Mapping):
        return row.raw
    return row.fields if isinstance(row.fields, dict) else {}


class _Writer(Protocol):
    """Writes rows of the input, each with the columns of its result."""

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def close(self) -> None: ...


class _Jsonl:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._stream.write(
                orjson.dumps(row, default=_json_value, option=orjson.OPT_APPEND_NEWLINE)
            )

    def close(self) -> None:
        """JSONL has no end mark."""


def _json_value(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else str(value)


class _Csv:
    def __init__(self, stream: BinaryIO, names: Sequence[str]) -> None:
        self._text = io.TextIOWrapper(stream, "utf-8", errors="surrogateescape", newline="")
        self._writer, self._names = csv.writer(self._text), names
        self._writer.writerow([inert(name) for name in names])

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._writer.writerow([inert(_cell(row.get(name))) for name in self._names])

    def close(self) -> None:
        self._text.flush()
        self._text.detach()


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return _json_text(value) if isinstance(value, dict | list | bool) else value


def _json_text(value: object) -> str:
    return orjson.dumps(value, default=str).decode()


async def export_joined(
    conn: AsyncConnection, batch: BatchRecord, wanted: Export, joined: JoinedInput
) -> Joined:
    """Write every row of an input with the result of its job, in the input's order.

    The input's columns come first, as they are; then those of `batch_results`, `result_` before
    those whose name the input has. Rows without a result have them empty.

    Args:
        conn: A transaction.
        batch: The batch.
        wanted: Format and file.
        joined: The input.

    Raises:
        InputError: The input can't be read, it is not what the batch was made of, or the file can't
            be written.
    """
    columns = _Columns()
    for chunk in joined.chunks():
        for row in chunk:
            columns.add(row)
    if joined.by_row:
        _check_count(columns, batch, joined)
    names, done = columns.result_names(VIEW_COLUMNS), Joined(unreadable=columns.unreadable)
    with replacing(wanted.out) as stream:
        writer = _writer(stream, wanted.format, columns, names)
        for chunk in joined.chunks():
            rows = [row for row in chunk if isinstance(row.fields, dict)]
            found = await _results_of(conn, batch.id, rows, joined, done.rows)
            shown = (None if one is None else one.view_row() for one in found)
            pairs = zip(rows, shown, strict=True)
            writer.write([_merged(row, values, names) for row, values in pairs])
            done.rows += len(rows)
            done.counts.update(one.status for one in found if one is not None)
        writer.close()
        if not done.counts.total() and batch.job_count:
            await _refuse_other_input(conn, batch, joined)
    return done


def join_rows(
    rows: Iterable[RawRow],
    results: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str],
    id_column: str | None,
    batch_id: str,
) -> list[dict[str, Any]]:
    """Return rows in memory, each with its result, as `export_joined` writes them.

    Args:
        rows: The rows; those that could not be read are left out.
        results: The batch's results by custom_id.
        columns: The columns of a result.
        id_column: Column of the custom_ids; what a submission takes where unset.
        batch_id: The batch, for messages.

    Raises:
        InputError: No row has a result, though there are results.
    """
    seen, readable = _Columns(), [row for row in rows if isinstance(row.fields, dict)]
    for row in readable:
        seen.add(row)
    ids = [custom_id_of(row, id_column) for row in readable]
    found = [None if one is None else results.get(one) for one in ids]
    if results and not any(found):
        remedy = "Give what was submitted, and its id_column"
        raise _other_input(len(results), batch_id, "rows", remedy)
    names = seen.result_names(columns)
    return [_merged(row, one, names) for row, one in zip(readable, found, strict=True)]


def _check_count(columns: _Columns, batch: BatchRecord, joined: JoinedInput) -> None:
    if columns.rows + columns.unreadable != batch.job_count or columns.unreadable:
        raise InputError(
            f"the input has {columns.rows:,} rows that can be read, the batch {batch.job_count:,} "
            "jobs, so rows are not jobs in order",
            where=joined.source.name,
            remedy="Give the file that was submitted, or join by custom_id",
        )


async def _refuse_other_input(
    conn: AsyncConnection, batch: BatchRecord, joined: JoinedInput
) -> None:
    ended = (await progress(conn, batch.id)).ended
    if ended:
        remedy = "Give the file that was submitted, its --id-column, or --join-by row"
        raise _other_input(ended, batch.id, joined.source.name, remedy)


def _other_input(ended: int, batch_id: object, where: str, remedy: str) -> InputError:
    what = f"no row is one of the {ended:,} jobs of batch {batch_id} that have ended"
    return InputError(what, where=where, remedy=remedy)


async def _results_of(
    conn: AsyncConnection,
    batch_id: UUID,
    rows: Sequence[RawRow],
    joined: JoinedInput,
    first: int,
) -> list[ResultRecord | None]:
    """Return each row's result, None where its job has not ended or is not of this batch."""
    numbers: Sequence[int | None] = range(first, first + len(rows))
    if not joined.by_row:
        ids = [custom_id_of(row, joined.id_column) for row in rows]
        known = await jobs.numbers_of(conn, batch_id, [one for one in ids if one is not None])
        numbers = [known.get(one) if one is not None else None for one in ids]
    records = await results.read(conn, batch_id, [one for one in numbers if one is not None])
    by_number = {record.job_no: record for record in records}
    return [None if one is None else by_number.get(one) for one in numbers]


def _merged(
    row: RawRow, values: Mapping[str, Any] | None, names: Mapping[str, str]
) -> dict[str, Any]:
    merged = dict(_cells(row))
    merged.update((called, (values or {}).get(name)) for name, called in names.items())
    return merged


def _writer(
    stream: BinaryIO, result_format: ResultFormat, columns: _Columns, names: Mapping[str, str]
) -> _Writer:
    if result_format is ResultFormat.CSV:
        return _Csv(stream, [*columns.kinds, *names.values()])
    if result_format is ResultFormat.PARQUET:
        from producer.results.parquet_writer import JoinedWriter  # 40 MB, 0.1 s

        return JoinedWriter(stream, columns.kinds, names)
    return _Jsonl(stream)
