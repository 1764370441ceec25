"""One writer a format; each takes results a chunk at a time and holds no more than one."""

import csv
import io
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Protocol
from uuid import UUID

import orjson

from producer.results.columns import COLUMNS, values
from producer.results.jsonl_writer import output_line
from routoo.domain.job import ResultStatus
from routoo.files import replacing
from routoo.store.results import ResultRecord


class Writer(Protocol):
    """Where results go."""

    def write(self, records: Sequence[ResultRecord]) -> None:
        """Write some results, in input order."""
        ...

    def close(self) -> None:
        """Write what a file of the format ends with."""
        ...


class JsonlWriter:
    """Answers as OpenAI Batch output lines; failures go to an error file, made when one comes.

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
                line = output_line(self._batch_id, record)
                stream.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """End the file: JSONL has no end mark."""

    def _stream_of(self, record: ResultRecord) -> BinaryIO | None:
        if record.status is ResultStatus.SUCCEEDED:
            return self._stream
        if self._error_stream is None and self._errors is not None:
            self._error_stream = self._files.enter_context(replacing(self._errors))
        return self._error_stream


_CREATED_AT = COLUMNS.index("created_at")


class CsvWriter:
    """The columns of `batch_results` with a header; null is an empty field."""

    def __init__(self, stream: BinaryIO) -> None:
        self._text = io.TextIOWrapper(stream, "utf-8", newline="")
        self._writer = csv.writer(self._text)
        self._writer.writerow(COLUMNS)

    def write(self, records: Sequence[ResultRecord]) -> None:
        """Write some results."""
        for record in records:
            row = values(record)
            row[_CREATED_AT] = record.created_at.isoformat()
            self._writer.writerow(row)

    def close(self) -> None:
        """Send the rest to the stream and leave that open."""
        self._text.flush()
        self._text.detach()
