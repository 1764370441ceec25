"""Streams a batch's results into a file, whole or not at all: JSONL, CSV or Parquet."""

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from producer.results.formats import Export, ResultFormat, ResultWriter
from routoo.domain.job import ResultStatus
from routoo.files import replacing
from routoo.store import results
from routoo.store.batches import BatchRecord
from routoo.store.results import VIEW_COLUMNS, ResultRecord
from routoo.tracing import span

_OK = 200


class JsonlWriter:
    """Writes answers to one stream; failures go to an error file, made when the first one comes.

    Source: OpenAI API reference, "The request output object" of the Batch API; the fields from
    `status` on are ours.

    Args:
        batch_id: The batch.
        stream: Where the answers go.
        errors: The error file, None where failures are only counted.
        files: Closes the error file, or removes it where the export fails.
    """

    def __init__(
        self, batch_id: UUID, stream: BinaryIO, errors: Path | None, files: ExitStack
    ) -> None:
        self._batch_id, self._stream, self._errors, self._files = batch_id, stream, errors, files
        self._error_stream: BinaryIO | None = None

    def write(self, records: Sequence[ResultRecord]) -> None:
        """Write some results."""
        for record in records:
            stream = self._stream_of(record)
            if stream is not None:
                stream.write(output_line(self._batch_id, record))

    def close(self) -> None:
        """End the file: JSONL has no end mark."""

    def _stream_of(self, record: ResultRecord) -> BinaryIO | None:
        if record.status is ResultStatus.SUCCEEDED:
            return self._stream
        if self._error_stream is None and self._errors is not None:
            self._error_stream = self._files.enter_context(replacing(self._errors))
        return self._error_stream


def output_line(batch_id: UUID, record: ResultRecord) -> bytes:
    """Return a result's line: with a response where it succeeded, else with an error."""
    succeeded = record.status is ResultStatus.SUCCEEDED
    line = {
        "id": f"batch_req_{batch_id.hex}_{record.job_no}",
        "custom_id": record.custom_id,
        "response": _response(record) if succeeded else None,
        "error": None if succeeded else _error(record),
        "status": record.status,
        "model": record.model,
        "cost_usd": float(record.cost_usd),
        "expected_quality": record.expected_quality,
        "latency_s": record.latency_s,
        "planned_model": record.planned_model,
        "reason": record.reason,
        "decision": record.decision,
    }
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


def _response(record: ResultRecord) -> dict[str, Any]:
    body = record.response or {}
    return {"status_code": _OK, "request_id": str(body.get("id", "")), "body": body}


def _error(record: ResultRecord) -> dict[str, Any]:
    return {
        "code": record.error_code or record.status.value,
        "message": record.error_message or f"the job ended as {record.status.value}",
    }


_FORMULA = re.compile(r"[=@\t\r]|[+-](?!\d+(\.\d+)?$)")
"""The begin of a cell that a spreadsheet runs as a formula; a plain number is none."""


class CsvWriter:
    """Writes the columns of `batch_results`; null is an empty field.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._text = io.TextIOWrapper(stream, "utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text)
        self._writer.writerow(VIEW_COLUMNS)

    def write(self, records: Sequence[ResultRecord]) -> None:
        """Write some results."""
        for record in records:
            row = record.view_row() | {"created_at": record.created_at.isoformat()}
            self._writer.writerow([inert(value) for value in row.values()])

    def close(self) -> None:
        """Send the rest to the stream and leave that open."""
        self._text.flush()
        self._text.detach()


def inert(value: object) -> object:
    """Return a cell of CSV that no spreadsheet takes for a formula."""
    is_formula = isinstance(value, str) and _FORMULA.match(value)
    return f"'{value}" if is_formula else value


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
    with span("write results", batch.id), ExitStack() as files:
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
        from producer.results.parquet_writer import ParquetWriter  # 40 MB, 0.1 s

        return ParquetWriter(stream)
    return JsonlWriter(batch.id, stream, wanted.errors, files)
