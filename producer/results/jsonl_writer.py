"""Writes results as the lines of an OpenAI Batch output file and error file.

Source: OpenAI API reference, "The request output object" of the Batch API; `planned_model`,
`reason` (why another model answered) and `decision` (how the answer came about) are ours.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import orjson

from routoo.domain.job import ResultStatus
from routoo.files import replacing
from routoo.store.results import ResultRecord

_OK = 200


class JsonlWriter:
    """Writes answers to one stream; failures go to an error file, made when the first one comes.

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
                line = _output_line(self._batch_id, record)
                stream.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """End the file: JSONL has no end mark."""

    def _stream_of(self, record: ResultRecord) -> BinaryIO | None:
        if record.status is ResultStatus.SUCCEEDED:
            return self._stream
        if self._error_stream is None and self._errors is not None:
            self._error_stream = self._files.enter_context(replacing(self._errors))
        return self._error_stream


def _output_line(batch_id: UUID, record: ResultRecord) -> dict[str, Any]:
    """Return a result's line: with a response where it succeeded, else with an error."""
    succeeded = record.status is ResultStatus.SUCCEEDED
    return {
        "id": f"batch_req_{batch_id.hex}_{record.job_no}",
        "custom_id": record.custom_id,
        "response": _response(record) if succeeded else None,
        "error": None if succeeded else _error(record),
        "planned_model": record.planned_model,
        "reason": record.reason,
        "decision": record.decision,
    }


def _response(record: ResultRecord) -> dict[str, Any]:
    body = record.response or {}
    return {"status_code": _OK, "request_id": str(body.get("id", "")), "body": body}


def _error(record: ResultRecord) -> dict[str, Any]:
    return {
        "code": record.error_code or record.status.value,
        "message": record.error_message or f"the job ended as {record.status.value}",
    }
