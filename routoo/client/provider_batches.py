"""The OpenAI Files and Batches protocol: upload, create, look, download, cancel."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
from yarl import URL

from routoo.client.access import find_access
from routoo.client.batch_files import Outcome, read_outcomes, request_url
from routoo.client.failures import CALL_ERRORS, error_of_exception, error_of_response
from routoo.client.post import CONNECT_TIMEOUT
from routoo.client.token_counts import TokenCounters
from routoo.domain.pool import BatchChannel, CandidateModel
from routoo.domain.provider_batch import ProviderBatch, ProviderRow
from routoo.errors import InvalidResponseError

MARKER_KEY = "routoo"
"""Key of a batch's metadata that holds our marker."""
_FILE_TIMEOUT_S = 600.0
_PAGE = 100
_MOST_PAGES = 50


@dataclass(frozen=True, slots=True)
class _Request:
    """One call of the protocol."""

    method: str
    path: str
    """Below the base URL."""
    data: aiohttp.FormData | bytes | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    limit_s: float | None = None
    """Longest wait for the answer, in seconds; the short one where unset."""


class ProviderBatches:
    """Implements `routoo.ports.BatchProvider` over one aiohttp session; an async context manager.

    Args:
        environ: Where API keys and proxies are looked up; the process's environment if unset.
        timeout_s: Longest wait for the answer to a short request, in seconds; files get more.
        counters: Where models' tokenizers are kept.
    """

    def __init__(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        counters: TokenCounters | None = None,
    ) -> None:
        self._counters = counters or TokenCounters()
        self._environ = os.environ if environ is None else environ
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # asyncio.timeout covers a whole call; aiohttp's own limit of 300 s would cut a big file.
        self._session = aiohttp.ClientSession(timeout=CONNECT_TIMEOUT)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def upload(self, model: CandidateModel, name: str, content: bytes) -> str:
        """Upload an input file and return its id; nothing is billed yet.

        Raises:
            EndpointError: The call failed.
            ConfigError: The key's or the proxy's variable is not set.
        """
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", content, filename=name, content_type="application/jsonl")
        request = _Request("POST", "files", data=form, limit_s=_FILE_TIMEOUT_S)
        answer = await self._json(model, request)
        return str(answer["id"])

    async def create(
        self, model: CandidateModel, file_id: str, marker: str, body: Mapping[str, Any]
    ) -> ProviderBatch:
        """Ask for a batch of an uploaded file.

        Args:
            model: A batch channel.
            file_id: The input file.
            marker: Kept in the batch's metadata, so that `find` tells whether it was created.
            body: Any of its requests, all of one kind.

        Raises:
            EndpointError: The call failed; unless the provider refused it (4xx), the batch may
                exist all the same.
            ConfigError: The key's or the proxy's variable is not set.
        """
        channel = channel_of(model)
        wanted = {
            "input_file_id": file_id,
            "endpoint": request_url(channel, body),
            "completion_window": f"{channel.window_h}h",
            "metadata": {MARKER_KEY: marker},
        }
        request = _Request("POST", "batches", data=orjson.dumps(wanted))
        return _batch(await self._json(model, request))

    async def find(
        self, model: CandidateModel, marker: str, since_s: float
    ) -> ProviderBatch | None:
        """Return the batch that carries a marker, None where the provider has none.

        Args:
            model: A batch channel.
            marker: As given to `create`.
            since_s: No batch from before this time is looked at, in seconds since the epoch.

        Raises:
            EndpointError: The call failed.
            ConfigError: The key's or the proxy's variable is not set.
        """
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            params = {"limit": str(_PAGE), **after}
            page = await self._json(model, _Request("GET", "batches", params=params))
            rows = [row for row in page.get("data") or () if isinstance(row, dict)]
            for row in rows:
                if (row.get("metadata") or {}).get(MARKER_KEY) == marker:
                    return _batch(row)
            if not rows or not page.get("has_more") or _created_at(rows[-1]) < since_s:
                break
            after = {"after": str(rows[-1]["id"])}
        return None

    async def get(self, model: CandidateModel, provider_id: str) -> ProviderBatch:
        """Return how far a batch has come.

        Raises:
            EndpointError: The call failed; with status 404 the provider has no such batch.
            ConfigError: The key's or the proxy's variable is not set.
        """
        return _batch(await self._json(model, _Request("GET", f"batches/{provider_id}")))

    async def cancel(self, model: CandidateModel, provider_id: str) -> None:
        """Ask the provider to stop; what it has answered is kept, and billed.

        Raises:
            EndpointError: The call failed, or the batch is over.
            ConfigError: The key's or the proxy's variable is not set.
        """
        await self._json(model, _Request("POST", f"batches/{provider_id}/cancel", data=b"{}"))

    async def outcomes(
        self, model: CandidateModel, batch: ProviderBatch, rows: Sequence[ProviderRow]
    ) -> dict[str, Outcome]:
        """Download a finished batch's files; return what came of each row, by its custom_id.

        Raises:
            EndpointError: A file can't be had.
            ConfigError: The key's or the proxy's variable is not set, or the tokenizer not there.
        """
        ids = filter(None, (batch.output_file_id, batch.error_file_id))
        requests = [
            _Request("GET", f"files/{file_id}/content", limit_s=_FILE_TIMEOUT_S) for file_id in ids
        ]
        files = [await self._call(model, request) for request in requests]
        return read_outcomes(files, model, batch, rows, self._counters.of(model))

    async def _json(self, model: CandidateModel, request: _Request) -> dict[str, Any]:
        raw = await self._call(model, request)
        try:
            answer = orjson.loads(raw)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict) or ("id" not in answer and "data" not in answer):
            raise InvalidResponseError(
                "the answer is not of the Batch API",
                where=str(_url(model, request.path).with_query(None)),
                remedy="Check base_url of batch_channel in the pool",
            )
        return answer

    async def _call(self, model: CandidateModel, request: _Request) -> bytes:
        access = find_access(model, self._environ)
        url = _url(model, request.path).update_query(request.params)
        where = str(url.with_query(None))
        kind = {"Content-Type": "application/json"} if isinstance(request.data, bytes) else {}
        try:
            async with (
                asyncio.timeout(request.limit_s or self._timeout_s),
                self._opened.request(
                    request.method,
                    url,
                    data=request.data,
                    headers={**kind, **access.headers},
                    allow_redirects=False,
                    proxy=access.proxy,
                    proxy_headers=access.proxy_headers,
                ) as response,
            ):
                raw = await response.read()
        except CALL_ERRORS as error:
            raise error_of_exception(error, where=where) from error
        status = response.status
        if not 200 <= status < 300:  # noqa: PLR2004 - the range of successes
            raise error_of_response(status, response.headers, raw, where=where, secret=access.key)
        return raw

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("ProviderBatches must be entered with `async with` before a call")
        return self._session


def channel_of(model: CandidateModel) -> BatchChannel:
    """Return the batch channel that a candidate stands for.

    Raises:
        ValueError: It stands for none.
    """
    if model.batch_channel is None or not model.is_batch_channel:
        raise ValueError(f"no batch channel: {model.name}")
    return model.batch_channel


def _url(model: CandidateModel, path: str) -> URL:
    base = URL(model.endpoint.base_url)
    return base.joinpath(*path.split("/")).with_query(base.query)


def _created_at(row: Mapping[str, Any]) -> float:
    created = row.get("created_at")
    return float(created) if isinstance(created, (int, float)) else 0.0


def _batch(row: Mapping[str, Any]) -> ProviderBatch:
    created = _created_at(row)
    ends = (row.get(f"{end}_at") for end in ("completed", "expired", "cancelled", "failed"))
    ended = next((float(end) for end in ends if isinstance(end, (int, float))), None)
    errors = (row.get("errors") or {}).get("data") or ()
    messages = [str(error.get("message")) for error in errors if isinstance(error, dict)]
    return ProviderBatch(
        id=str(row["id"]),
        status=str(row.get("status")),
        output_file_id=row.get("output_file_id") or None,
        error_file_id=row.get("error_file_id") or None,
        latency_s=max(0.0, ended - created) if ended is not None and created else None,
        message="; ".join(messages[:3]) or None,
    )
