"""Results as a Parquet table."""

from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from producer.results.columns import COLUMNS, as_row
from routoo.store.results import ResultRecord

_TYPES = {
    "job_no": pa.int32(),
    "expected_quality": pa.float32(),
    "quality": pa.float32(),
    "expected_cost_usd": pa.float64(),
    "cost_usd": pa.float64(),
    "latency_s": pa.float32(),
    "created_at": pa.timestamp("us", tz="UTC"),
}
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in COLUMNS])
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
    row = as_row(record)
    for name in ("expected_cost_usd", "cost_usd"):
        row[name] = None if row[name] is None else float(row[name])
    return row
