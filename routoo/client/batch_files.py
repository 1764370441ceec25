"""The files of the OpenAI Batch protocol: requests in, answers and errors out, a line a row."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from routoo.client.failures import error_of_response
from routoo.client.formats.openai import (
    encode_request,
    path_of,
    request_to_send,
    text_of_answer,
    usage_of,
)
from routoo.client.token_counts import TokenCounter
from routoo.domain.completion import Completion
from routoo.domain.pool import BatchChannel, CandidateModel
from routoo.domain.provider_batch import ProviderBatch, ProviderRow
from routoo.errors import EndpointError, InvalidResponseError, RequestRejectedError

Outcome = Completion | EndpointError
"""What came of a row."""

_OK = range(200, 300)


def request_url(channel: BatchChannel, body: Mapping[str, Any]) -> str:
    """Return the URL that a row names, and its batch as `endpoint`."""
    return f"{channel.url_prefix}/{path_of(body)}"


def encode_row(model: CandidateModel, channel: BatchChannel, row: ProviderRow) -> bytes:
    """Return a row's line of the input file, its line break included.

    Raises:
        RequestRejectedError: The request holds something that JSON can't carry.
    """
    line = {
        "custom_id": row.custom_id,
        "method": "POST",
        "url": request_url(channel, row.body),
        "body": request_to_send(model, row.body),
    }
    return encode_request(line, where=f"batch file of {model.name}") + b"\n"


def read_outcomes(
    files: Iterable[bytes],
    model: CandidateModel,
    batch: ProviderBatch,
    rows: Iterable[ProviderRow],
    counter: TokenCounter | None = None,
) -> dict[str, Outcome]:
    """Return what came of each row that the output and error files name, by its custom_id.

    Lines that are no JSON, and rows nobody sent, are passed over: a row that is missing in the
    end may have been billed, and its caller says so.
    """
    sent = {row.custom_id: row for row in rows}
    found: dict[str, Outcome] = {}
    for line in _lines(files):
        row = sent.get(str(line.get("custom_id")))
        if row is not None and row.custom_id not in found:
            found[row.custom_id] = _outcome(line, row, model, batch, counter)
    return found


def _lines(files: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    for file in files:
        for raw in file.splitlines():
            try:
                line = orjson.loads(raw)
            except orjson.JSONDecodeError:
                continue
            if isinstance(line, dict):
                yield line


def _outcome(
    line: Mapping[str, Any],
    row: ProviderRow,
    model: CandidateModel,
    batch: ProviderBatch,
    counter: TokenCounter | None,
) -> Outcome:
    where = f"batch {batch.id} of {model.name}"
    response = line.get("response")
    if not isinstance(response, Mapping):
        return RequestRejectedError(f"the row failed: {_said(line.get('error'))}", where=where)
    status, body = response.get("status_code"), response.get("body")
    if not isinstance(status, int) or status not in _OK:
        raw = orjson.dumps(body if body is not None else line.get("error"))
        return error_of_response(status if isinstance(status, int) else 500, {}, raw, where=where)
    text = text_of_answer(body)
    if text is None or not isinstance(body, dict):
        return InvalidResponseError("the row's answer is not a completion", where=where)
    usage = usage_of(body, row.body, model, counter)
    return Completion(text, body, usage, status, batch.latency_s or 0.0)


def _said(error: object) -> str:
    if isinstance(error, Mapping):
        code, message = error.get("code"), error.get("message")
        return ": ".join(str(part) for part in (code, message) if part) or "no reason given"
    return str(error) if error else "no reason given"
