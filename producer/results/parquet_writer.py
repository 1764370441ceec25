"""Writes results as a Parquet table."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from producer.results.columns import COLUMNS, as_row
from routoo.store.columns import python_types
from routoo.store.results import ResultRecord

_ARROW_TYPES = {
    int: pa.int32(),
    float: pa.float32(),
    Decimal: pa.float64(),
    datetime: pa.timestamp("us", tz="UTC"),
}
_TYPES = python_types(ResultRecord)
SCHEMA = pa.schema([(name, _ARROW_TYPES.get(_TYPES[name], pa.string())) for name in COLUMNS])
"""The columns of `batch_results`; amounts of USD are 64-bit floats."""
_ROWS_A_GROUP = 50_000


class ParquetWriter:
    """Writes the columns of `batch_results`, typed, a row group at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(stream, SCHEMA, compression="zstd")
        self._batches: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, records: Sequence[ResultRecord]) -> None:
        """Write some results."""
        rows = [_plain(record) for record in records]
        self._batches.append(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
        self._rows += len(rows)
        if self._rows >= _ROWS_A_GROUP:
            self._flush()

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_batches(self._batches, SCHEMA))
        self._batches, self._rows = [], 0


def _plain(record: ResultRecord) -> dict[str, Any]:
    return as_row(record, lambda value: float(value) if isinstance(value, Decimal) else value)
