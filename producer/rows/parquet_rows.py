"""Reads Parquet tables of rows; tables of items (`item_id`, `prompt`) are read unchanged."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from producer.rows import problems
from producer.rows.check import PLAIN_FIELDS
from producer.rows.formats import CHUNK_ROWS, RawRow, in_chunks, refuse_repeated_columns
from routoo.errors import InputError


def read(stream: BinaryIO, source: str) -> Iterator[list[RawRow]]:
    """Yield the rows of a file in chunks, numbered from 1; a null or NaN is not given.

    Args:
        stream: A file; a pipe can't be read backwards.
        source: Its name, for messages.

    Raises:
        InputError: The file is no Parquet file, is damaged, or has no `prompt` column.
    """
    try:
        with pq.ParquetFile(stream, pre_buffer=False) as file:
            columns = _columns(file.schema_arrow.names, source)
            batches = file.iter_batches(batch_size=CHUNK_ROWS, columns=columns)
            records = (record for batch in batches for record in _records(batch))
            yield from in_chunks(_row(number, record) for number, record in enumerate(records, 1))
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            "the Parquet file can't be read", value=str(error)[:200], where=source
        ) from error


def _columns(names: list[str], source: str) -> list[str]:
    if "prompt" not in names:
        raise InputError(
            "the table has no column prompt",
            value=", ".join(names)[:200],
            where=source,
            remedy="Name the column of the prompts prompt",
        )
    known = [name for name in names if name in PLAIN_FIELDS]
    refuse_repeated_columns(known, source)
    return known


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
