"""Reads Parquet tables of rows; tables of items (`item_id`, `prompt`) are read unchanged.

Rows of Arrow's record batches are made here for other sources of them, too.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from producer.rows import problems
from producer.rows.formats import CHUNK_ROWS, PROMPT, RawRow, WantedColumns, in_chunks
from routoo.errors import InputError


def read(stream: BinaryIO, source: str, columns: WantedColumns = PROMPT) -> Iterator[list[RawRow]]:
    """Yield the rows of a file in chunks, numbered from 1; a null or NaN is not given.

    Args:
        stream: A file; a pipe can't be read backwards.
        source: Its name, for messages.
        columns: Those to read.

    Raises:
        InputError: The file is no Parquet file, is damaged, or lacks a wanted column.
    """
    try:
        with pq.ParquetFile(stream, pre_buffer=False) as file:
            names = file.schema_arrow.names
            columns.check(names, source)
            wanted = [name for name in names if columns.takes(name)]
            batches = file.iter_batches(batch_size=CHUNK_ROWS, columns=wanted)
            yield from in_chunks(raw_rows(batches))
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        # ValueError: of names that are no UTF-8; Overflow: of times that no date can be.
        raise InputError(
            "the Parquet file can't be read", value=str(error)[:200], where=source
        ) from error


def raw_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[RawRow]:
    """Yield the rows of Arrow's record batches, numbered from 1; a null or NaN is not given."""
    records = (record for batch in batches for record in _records(batch))
    yield from (_row(number, record) for number, record in enumerate(records, 1))


def _records(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def _values(column: pa.Array) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        # Parquet doesn't check its strings: bad bytes become surrogates, reported with their row.
        raw = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode(errors="surrogateescape") for value in raw]
    return values


def _row(number: int, values: Mapping[str, Any]) -> RawRow:
    given = {name: _plain(name, value) for name, value in values.items() if not _is_absent(value)}
    strings = [value for value in given.values() if isinstance(value, str)]
    problem = problems.find_unstorable_text(strings)
    if problem is not None:
        undecoded = problem is problems.LONE_SURROGATE
        shown = {name: ascii(value) for name, value in given.items()}
        return RawRow(number, shown, problems.INVALID_ENCODING if undecoded else problem)
    return RawRow(number, given, given)


def _plain(name: str, value: object) -> object:
    """Return a value as a row has it; a table's keys are often numbers, and an id is text."""
    if name not in {"custom_id", "item_id"}:
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes 7.0 where other cells of the column are empty
    return str(value) if isinstance(value, int) else value


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
