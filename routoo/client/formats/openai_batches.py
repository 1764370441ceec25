"""Speaks OpenAI's Files and Batches API: requests go in as a file, outcomes come back as files."""

import codecs
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import aiohttp
import orjson

from routoo.client.failures import error_of_response, unreadable
from routoo.client.formats.error_body import is_batch_postponed
from routoo.client.formats.wire_format import (
    BatchApiRequest,
    BatchInput,
    BatchPage,
    ListedBatch,
    Outcome,
    SentCall,
    WireFormat,
    encode_json,
)
from routoo.client.token_counts import TokenCounter
from routoo.domain.pool import BatchChannel, CandidateModel
from routoo.domain.provider_batch import ProviderBatch, ProviderRow
from routoo.errors import EndpointError, InvalidResponseError, RequestRejectedError

_MARKER_KEY = "routoo"
"""Key of a batch's metadata that holds our marker."""
_PAGE_SIZE = 100
_SUCCESSES = range(200, 300)
_OK, _NO_STATUS = 200, 500
_WRAPPERS = ("data", "batch", "result")
"""Keys in which gateways put what the API itself answers."""
_MOST_ERROR_BYTES = 64 * 1024
_REASONS_SHOWN = 3


class OpenAIBatches:
    """Implements `routoo.client.formats.wire_format.BatchFormat`.

    Args:
        calls: The format of the requests and answers in the rows.
    """

    keeps_markers = True

    def __init__(self, calls: WireFormat) -> None:
        self._calls = calls

    def row_url(self, channel: BatchChannel, body: Mapping[str, Any]) -> str:
        """Return the URL that a row names, and its batch as `endpoint`."""
        return f"{channel.url_prefix}/{self._calls.path_of(body)}"

    def encode_row(self, model: CandidateModel, channel: BatchChannel, row: ProviderRow) -> bytes:
        """Return a row's line of the input file, its line break included.

        Raises:
            RequestRejectedError: The request holds something that JSON can't carry.
        """
        line = {
            "custom_id": row.custom_id,
            "method": "POST",
            "url": self.row_url(channel, row.body),
            "body": self._calls.request(model, row.body),
        }
        return encode_json(line, where=f"batch file of {model.name}") + b"\n"

    def upload(self, name: str, content: bytes) -> BatchApiRequest:
        """Return the request that uploads an input file."""
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", content, filename=name, content_type="application/jsonl")
        return BatchApiRequest("POST", "files", data=form, moves_file=True)

    def create(
        self, model: CandidateModel, channel: BatchChannel, given: BatchInput, marker: str
    ) -> BatchApiRequest:
        """Return the request that creates a batch; its metadata carry the marker."""
        del model
        wanted = {
            "input_file_id": given.file_id,
            "endpoint": self.row_url(channel, given.rows[0].body),
            "completion_window": f"{channel.window_h}h",
            "metadata": {_MARKER_KEY: marker},
        }
        return BatchApiRequest("POST", "batches", data=orjson.dumps(wanted))

    def list_page(self, after: str | None) -> BatchApiRequest:
        """Return the request for a page of batches, the newest first."""
        params = {"limit": str(_PAGE_SIZE)} | ({"after": after} if after else {})
        return BatchApiRequest("GET", "batches", params=params)

    def get(self, provider_id: str) -> BatchApiRequest:
        """Return the request for a batch's state."""
        return BatchApiRequest("GET", f"batches/{provider_id}")

    def cancel(self, provider_id: str) -> BatchApiRequest:
        """Return the request that cancels a batch."""
        return BatchApiRequest("POST", f"batches/{provider_id}/cancel", data=b"{}")

    def result_files(self, batch: ProviderBatch) -> list[BatchApiRequest]:
        """Return the requests for the files of answers and of errors, as far as there are any."""
        ids = filter(None, (batch.output_file_id, batch.error_file_id))
        return [BatchApiRequest("GET", f"files/{one}/content", moves_file=True) for one in ids]

    def read_file_id(self, raw: bytes, where: str) -> str:
        """Read the answer to `upload`.

        Raises:
            InvalidResponseError: It is not of this API.
        """
        return str(read_answer(raw, where, "id")["id"])

    def is_postponed(self, raw: bytes) -> bool:
        """Return whether a refusal to create a batch says that another attempt may succeed."""
        return is_batch_postponed(raw[:_MOST_ERROR_BYTES].decode(errors="replace"))

    def read_batch(self, raw: bytes, where: str) -> ProviderBatch:
        """Read the answer to `create` or `get`.

        Raises:
            InvalidResponseError: It is not of this API.
        """
        return _batch_of(read_answer(raw, where, "id"))

    def read_page(self, raw: bytes, where: str) -> BatchPage:
        """Read the answer to `list_page`.

        Raises:
            InvalidResponseError: It is not of this API.
        """
        page = read_answer(raw, where, "data")
        rows = listed_rows(page)
        listed = tuple(
            ListedBatch(
                _batch_of(row), (row.get("metadata") or {}).get(_MARKER_KEY), _created_at_s(row)
            )
            for row in rows
        )
        return BatchPage(listed, str(rows[-1]["id"]) if rows and page.get("has_more") else None)

    def read_marker(self, files: Iterable[bytes], markers: Iterable[str]) -> None:
        """Return None: outcomes show no marker, the list of batches does."""
        del files, markers

    def read_outcomes(
        self,
        files: Iterable[bytes],
        model: CandidateModel,
        batch: ProviderBatch,
        rows: Iterable[ProviderRow],
        counter: TokenCounter | None = None,
    ) -> dict[str, Outcome]:
        """Return what came of each row that the output and error files name, by its custom_id.

        Lines that are not JSON, and rows that were not sent, are ignored. A row that no file names
        may have been billed, which the caller has to account for.
        """
        sent = {row.custom_id: row for row in rows}
        found: dict[str, Outcome] = {}
        for line in json_lines(files):
            row = sent.get(str(line.get("custom_id")))
            if row is not None and row.custom_id not in found:
                call = SentCall(model, row.body, f"batch {batch.id} of {model.name}", counter)
                found[row.custom_id] = self._outcome(line, call, batch.latency_s or 0.0)
        return found

    def _outcome(self, line: Mapping[str, Any], call: SentCall, latency_s: float) -> Outcome:
        response = line.get("response")
        if not isinstance(response, Mapping):
            what = f"the row failed: {_reason(line.get('error'))}"
            return RequestRejectedError(what, where=call.where)
        body = _decoded(response.get("body"))
        status = _status_of(response.get("status_code"), body)
        if status not in _SUCCESSES:
            raw = orjson.dumps(body if body is not None else line.get("error"))
            details = self._calls.read_error(status, raw)
            return error_of_response(details, status, {}, where=call.where)
        try:
            return self._calls.read_completion(body, call, http_status=status, latency_s=latency_s)
        except EndpointError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever a row breaks costs its own job
            return unreadable(error, call.where, status)


def _status_of(status: object, body: object) -> int:
    """Return the status of a row; some providers write 0 for success, a text, or nothing."""
    number = int(status) if isinstance(status, str) and status.isdecimal() else status
    if isinstance(number, int) and number:
        return number
    return _OK if isinstance(body, Mapping) and "choices" in body else _NO_STATUS


def _decoded(body: object) -> object:
    """Return a row's body, which some providers give as JSON in a text."""
    if not isinstance(body, str):
        return body
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body


def read_answer(raw: bytes, where: str, needed: str) -> dict[str, Any]:
    """Return an answer of a batch API that has a needed field.

    Raises:
        InvalidResponseError: It is something else.
    """
    try:
        answer = orjson.loads(raw.removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError:
        answer = None
    for wrapper in _WRAPPERS:
        inner = answer.get(wrapper) if isinstance(answer, dict) else None
        if isinstance(inner, dict) and needed in inner:
            answer = inner
    if not isinstance(answer, dict) or needed not in answer:
        raise InvalidResponseError(
            "the answer is not of the Batch API",
            where=where,
            remedy="Check base_url of batch_channel in the pool",
        )
    return answer


def listed_rows(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a page's batches, without what is none."""
    data = page.get("data")
    found = data if isinstance(data, list) else ()
    return [row for row in found if isinstance(row, dict) and "id" in row]


def _created_at_s(row: Mapping[str, Any]) -> float:
    created = row.get("created_at")
    return float(created) if isinstance(created, (int, float)) else 0.0


def _batch_of(row: Mapping[str, Any]) -> ProviderBatch:
    created = _created_at_s(row)
    ends = (row.get(f"{end}_at") for end in ("completed", "expired", "cancelled", "failed"))
    ended = next((float(end) for end in ends if isinstance(end, (int, float))), None)
    reasons = [_reason(error) for error in _errors_of(row)]
    files = row.get("output_file_id") or None, row.get("error_file_id") or None
    status = str(row.get("status"))
    return ProviderBatch(
        id=str(row["id"]),
        status=status,
        output_file_id=files[0],
        error_file_id=files[1],
        latency_s=max(0.0, ended - created) if ended is not None and created else None,
        message="; ".join(reasons[:_REASONS_SHOWN]) or None,
        is_postponed=status == "failed"
        and files == (None, None)
        and bool(reasons)
        and all(map(is_batch_postponed, reasons)),
    )


def _errors_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the errors of a batch, which come as a list, as an object with one, or as one."""
    errors = row.get("errors") or row.get("error")
    if isinstance(errors, Mapping):
        inner = errors.get("data")
        errors = inner if isinstance(inner, list) else [errors]
    elif not isinstance(errors, list):
        errors = [errors]
    return [error for error in errors if error]


def json_lines(files: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of files of JSON lines; other lines are left out."""
    for file in files:
        for raw in file.removeprefix(codecs.BOM_UTF8).splitlines():
            try:
                line = orjson.loads(raw)
            except orjson.JSONDecodeError:
                continue
            if isinstance(line, dict):
                yield line


def _reason(error: object) -> str:
    if isinstance(error, Mapping):
        code, message = error.get("code"), error.get("message")
        return ": ".join(str(part) for part in (code, message) if part) or "no reason given"
    return str(error) if error else "no reason given"
