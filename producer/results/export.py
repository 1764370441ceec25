"""Streams a batch's results into a file, whole or not at all."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import BinaryIO

from psycopg import AsyncConnection

from producer.results.csv_writer import CsvWriter
from producer.results.formats import Export, ResultFormat, ResultWriter
from producer.results.jsonl_writer import JsonlWriter
from routoo.domain.job import ResultStatus
from routoo.files import replacing
from routoo.store import results
from routoo.store.batches import BatchRecord
from routoo.store.results import ResultRecord

_ROWS_AT_ONCE = 1_000


@dataclass(slots=True)
class Exported:
    """The results that an export has written."""

    counts: Counter[ResultStatus] = field(default_factory=Counter)
    """Results by how their job ended."""

    @property
    def failures(self) -> int:
        """Jobs that ended without an answer."""
        return self.counts.total() - self.counts[ResultStatus.SUCCEEDED]


async def export(conn: AsyncConnection, batch: BatchRecord, wanted: Export) -> Exported:
    """Write a batch's results, in input order, in memory that doesn't grow with the batch.

    Args:
        conn: A transaction.
        batch: The batch; jobs that have not ended are left out.
        wanted: Format and files; a file is replaced at the end, or not at all.

    Raises:
        InputError: A file can't be written.
    """
    exported = Exported()
    with ExitStack() as files:
        writer = _writer(batch, wanted, files.enter_context(replacing(wanted.out)), files)
        chunk: list[ResultRecord] = []
        async for record in results.iterate(conn, batch.id):
            exported.counts[record.status] += 1
            chunk.append(record)
            if len(chunk) == _ROWS_AT_ONCE:
                writer.write(chunk)
                chunk = []
        writer.write(chunk)
        writer.close()
    return exported


def _writer(batch: BatchRecord, wanted: Export, stream: BinaryIO, files: ExitStack) -> ResultWriter:
    if wanted.format is ResultFormat.CSV:
        return CsvWriter(stream)
    if wanted.format is ResultFormat.PARQUET:
        from producer.results.parquet_writer import ParquetWriter  # noqa: PLC0415 - 40 MB, 0.1 s

        return ParquetWriter(stream)
    return JsonlWriter(batch.id, stream, wanted.errors, files)
