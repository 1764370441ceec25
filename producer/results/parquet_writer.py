"""Writes results as a Parquet table, alone or behind the columns of the input."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from routoo.store.columns import python_types
from routoo.store.results import VIEW_COLUMNS, ResultRecord

_ARROW_TYPES = {
    int: pa.int32(),
    float: pa.float32(),
    Decimal: pa.float64(),
    datetime: pa.timestamp("us", tz="UTC"),
}
_TYPES = python_types(ResultRecord)
SCHEMA = pa.schema([(name, _ARROW_TYPES.get(_TYPES[name], pa.string())) for name in VIEW_COLUMNS])
"""The columns of `batch_results`; amounts of USD are 64-bit floats."""
_ROWS_A_GROUP = 50_000


class _Groups:
    """Writes rows to a Parquet file, a row group at a time."""

    def __init__(self, stream: BinaryIO, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(stream, schema, compression="zstd")
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Add rows; their columns are those of the schema."""
        self._batches.append(pa.RecordBatch.from_pylist(rows, schema=self._schema))
        self._rows += len(rows)
        if self._rows >= _ROWS_A_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._batches, self._schema))
        self._batches, self._rows = [], 0


class ParquetWriter:
    """Writes the columns of `batch_results`, typed."""

    def __init__(self, stream: BinaryIO) -> None:
        self._groups = _Groups(stream, SCHEMA)

    def write(self, records: Sequence[ResultRecord]) -> None:
        """Write some results."""
        rows = (record.view_row().items() for record in records)
        self._groups.add([{name: _plain(value) for name, value in row} for row in rows])

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._groups.close()


def _plain(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else value


_Convert = Callable[[Any], Any]
_INPUT_TYPES: tuple[tuple[frozenset[type], pa.DataType, _Convert], ...] = (
    (frozenset({bool}), pa.bool_(), bool),
    (frozenset({int}), pa.int64(), int),
    (frozenset({int, float}), pa.float64(), float),
    (frozenset({str}), pa.string(), str),
    (frozenset({bytes}), pa.binary(), bytes),
    (frozenset({datetime}), pa.timestamp("us", tz="UTC"), lambda value: value),
    (frozenset({date}), pa.date32(), lambda value: value),
)


def _type_of(kinds: set[type]) -> tuple[pa.DataType, _Convert]:
    """Return the type of a column that holds such values, and what makes a value of that type.

    Values of several types, and objects and lists, become their JSON text.
    """
    fitting = ((kind, convert) for known, kind, convert in _INPUT_TYPES if kinds <= known)
    return next(fitting, (pa.string(), _json_text))


def _json_text(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()


class JoinedWriter:
    """Writes the columns of an input, typed by what they hold, and behind them those of results.

    Args:
        stream: Where the table goes.
        kinds: The types of the values of each column of the input.
        names: What the columns of results are called, by their own names.
    """

    def __init__(
        self, stream: BinaryIO, kinds: Mapping[str, set[type]], names: Mapping[str, str]
    ) -> None:
        types = {name: _type_of(found) for name, found in kinds.items()}
        fields = [pa.field(name, kind) for name, (kind, _) in types.items()]
        fields += [pa.field(called, SCHEMA.field(name).type) for name, called in names.items()]
        self._groups = _Groups(stream, pa.schema(fields))
        self._converts = {name: convert for name, (_, convert) in types.items()}

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write some rows."""
        self._groups.add([dict(self._converted(row)) for row in rows])

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._groups.close()

    def _converted(self, row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for name, value in row.items():
            convert = self._converts.get(name, _plain)
            yield name, None if value is None else convert(value)
