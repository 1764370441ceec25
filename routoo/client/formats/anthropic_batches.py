"""Speaks Anthropic's Message Batches API: rows go in with the creation, outcomes come as lines.

A batch has no metadata, so our marker stands before every row's custom_id. Nothing but the outcomes
of a batch that has ended shows it.

Source: "Message Batches" of Anthropic's API reference.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import orjson

from routoo.client.failures import error_of_response, unreadable
from routoo.client.formats.error_body import is_batch_postponed
from routoo.client.formats.openai_batches import json_lines, listed_rows, read_answer
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
from routoo.errors import EndpointError, RequestRejectedError

_PATH = "messages/batches"
_PAGE_SIZE = 100
_OK, _BAD_REQUEST, _SERVER_ERROR = 200, 400, 500
_REFUSALS = frozenset({"invalid_request", "invalid_request_error", "request_too_large"})
_STATES = {"ended": "completed", "canceling": "cancelling"}
_MOST_ERROR_BYTES = 64 * 1024
_BETWEEN = "_"
"""Stands between marker and custom_id: both together have fewer characters than the 64 allowed."""


class AnthropicBatches:
    """Implements `routoo.client.formats.wire_format.BatchFormat`.

    Args:
        calls: The format of the requests and answers in the rows.
    """

    keeps_markers = False

    def __init__(self, calls: WireFormat) -> None:
        self._calls = calls

    def row_url(self, channel: BatchChannel, body: Mapping[str, Any]) -> str:
        """Return the path of single calls: all rows have the same."""
        del channel
        return self._calls.path_of(body)

    def encode_row(self, model: CandidateModel, channel: BatchChannel, row: ProviderRow) -> bytes:
        """Return a row as JSON, a line break behind it.

        Raises:
            RequestRejectedError: The request asks for something that the API can't do.
        """
        del channel
        line = self._row(model, row, row.custom_id)
        return encode_json(line, where=f"batch of {model.name}") + b"\n"

    def _row(self, model: CandidateModel, row: ProviderRow, custom_id: str) -> dict[str, Any]:
        return {"custom_id": custom_id, "params": self._calls.request(model, row.body)}

    def upload(self, name: str, content: bytes) -> None:
        """Return None: there are no input files."""
        del name, content

    def create(
        self, model: CandidateModel, channel: BatchChannel, given: BatchInput, marker: str
    ) -> BatchApiRequest:
        """Return the request that creates a batch of some rows, the marker in their custom_ids.

        Raises:
            RequestRejectedError: A request asks for something that the API can't do.
        """
        del channel
        prefix = _prefix(marker)
        rows = [self._row(model, row, prefix + row.custom_id) for row in given.rows]
        data = encode_json({"requests": rows}, where=f"batch of {model.name}")
        return BatchApiRequest("POST", _PATH, data=data)

    def list_page(self, after: str | None) -> BatchApiRequest:
        """Return the request for a page of batches, the newest first."""
        params = {"limit": str(_PAGE_SIZE)} | ({"after_id": after} if after else {})
        return BatchApiRequest("GET", _PATH, params=params)

    def get(self, provider_id: str) -> BatchApiRequest:
        """Return the request for a batch's state."""
        return BatchApiRequest("GET", f"{_PATH}/{provider_id}")

    def cancel(self, provider_id: str) -> BatchApiRequest:
        """Return the request that cancels a batch."""
        return BatchApiRequest("POST", f"{_PATH}/{provider_id}/cancel", data=b"{}")

    def result_files(self, batch: ProviderBatch) -> list[BatchApiRequest]:
        """Return the request for the outcomes.

        It is not `results_url` that is called: that might lead the key to another host.
        """
        return [BatchApiRequest("GET", f"{_PATH}/{batch.id}/results", moves_file=True)]

    def read_file_id(self, raw: bytes, where: str) -> str:
        """Read the answer to an upload: there is none.

        Raises:
            InvalidResponseError: If it has no id.
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
        listed = tuple(ListedBatch(_batch_of(row), None, _epoch_s(row, "created")) for row in rows)
        more = bool(rows) and page.get("has_more") is True
        return BatchPage(listed, str(page.get("last_id") or rows[-1]["id"]) if more else None)

    def read_marker(self, files: Iterable[bytes], markers: Iterable[str]) -> str | None:
        """Return the one of some markers that stands before the outcomes' custom_ids."""
        prefixes = {_prefix(marker): marker for marker in markers}
        for line in json_lines(files):
            before, between, _ = str(line.get("custom_id")).partition(_BETWEEN)
            return prefixes.get(before + between)
        return None

    def read_outcomes(
        self,
        files: Iterable[bytes],
        model: CandidateModel,
        batch: ProviderBatch,
        rows: Iterable[ProviderRow],
        counter: TokenCounter | None = None,
    ) -> dict[str, Outcome]:
        """Return what came of each row that the outcomes name, by its custom_id."""
        sent = {row.custom_id: row for row in rows}
        found: dict[str, Outcome] = {}
        for line in json_lines(files):
            row = sent.get(str(line.get("custom_id")).rpartition(_BETWEEN)[2])
            result = line.get("result")
            if row is not None and row.custom_id not in found and isinstance(result, Mapping):
                call = SentCall(model, row.body, f"batch {batch.id} of {model.name}", counter)
                found[row.custom_id] = self._outcome(result, call, batch.latency_s or 0.0)
        return found

    def _outcome(self, result: Mapping[str, Any], call: SentCall, latency_s: float) -> Outcome:
        kind = result.get("type")
        if kind == "errored":
            return self._error(result.get("error"), call)
        if kind != "succeeded":
            return RequestRejectedError(f"the row was {kind}", where=call.where)
        message = result.get("message")
        try:
            return self._calls.read_completion(message, call, http_status=_OK, latency_s=latency_s)
        except EndpointError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whatever a row breaks costs its own job
            return unreadable(error, call.where, _OK)

    def _error(self, error: object, call: SentCall) -> EndpointError:
        inner = error.get("error", error) if isinstance(error, Mapping) else None
        kind = inner.get("type") if isinstance(inner, Mapping) else None
        status = _BAD_REQUEST if kind in _REFUSALS else _SERVER_ERROR
        details = self._calls.read_error(status, orjson.dumps(error, default=str))
        return error_of_response(details, status, {}, where=call.where)


def _prefix(marker: str) -> str:
    return marker.replace("-", "") + _BETWEEN


def _batch_of(row: Mapping[str, Any]) -> ProviderBatch:
    status = str(row.get("processing_status"))
    created_s, ended_s = _epoch_s(row, "created"), _epoch_s(row, "ended")
    counts = row.get("request_counts")
    numbers = [n for n in counts.values() if type(n) is int] if isinstance(counts, Mapping) else []
    return ProviderBatch(
        id=str(row["id"]),
        status=_STATES.get(status, status),
        latency_s=max(0.0, ended_s - created_s) if created_s and ended_s else None,
        row_count=sum(numbers) if numbers else None,
    )


def _epoch_s(row: Mapping[str, Any], what: str) -> float:
    """Return an instant of a batch in seconds since the epoch, 0 where it has none."""
    try:
        return datetime.fromisoformat(str(row.get(f"{what}_at"))).timestamp()
    except ValueError:
        return 0.0
