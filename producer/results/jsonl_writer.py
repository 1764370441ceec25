"""Results as the lines of an OpenAI Batch output file and error file.

Source: OpenAI API reference, "The request output object" of the Batch API.
"""

from typing import Any
from uuid import UUID

from routoo.domain.job import ResultStatus
from routoo.store.results import ResultRecord

_OK = 200


def output_line(batch_id: UUID, record: ResultRecord) -> dict[str, Any]:
    """Return a result's line: with a response where it succeeded, with an error where not."""
    succeeded = record.status is ResultStatus.SUCCEEDED
    return {
        "id": f"batch_req_{batch_id.hex}_{record.job_no}",
        "custom_id": record.custom_id,
        "response": _response(record) if succeeded else None,
        "error": None if succeeded else _error(record),
    }


def _response(record: ResultRecord) -> dict[str, Any]:
    body = record.response or {}
    return {"status_code": _OK, "request_id": str(body.get("id", "")), "body": body}


def _error(record: ResultRecord) -> dict[str, Any]:
    return {
        "code": record.error_code or record.status.value,
        "message": record.error_message or f"the job ended as {record.status.value}",
    }
