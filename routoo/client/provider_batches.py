"""Hands batches over to providers' batch APIs: upload, create, look, download, cancel."""

import os
from collections.abc import Sequence
from typing import Self

from routoo.client.access import find_access
from routoo.client.failures import error_of_response
from routoo.client.formats.wire_format import BatchApiRequest, BatchFormat, BatchInput, Outcome
from routoo.client.http import HttpClient, HttpReply, target_of
from routoo.client.model_endpoints import format_of
from routoo.client.token_counts import TokenCounters
from routoo.domain.networks import NONE_BLOCKED, BlockedNetworks
from routoo.domain.pool import BatchChannel, CandidateModel
from routoo.domain.provider_batch import ProviderBatch, ProviderRow
from routoo.errors import BatchPostponedError, EndpointError, RateLimitedError

_MAX_FILE_BYTES = 2**30
"""Largest file of outcomes that is read; it holds the rows of one shard."""
_FILE_TIMEOUT_S = 600.0
_MOST_PAGES = 50
_SUCCESSES = range(200, 300)
_CONTENT_TYPE = "Content-Type"
_PASSING_REFUSALS = frozenset({400, 404, 409, 413, 422, 425, 429})
"""Statuses with which a provider says that it takes a batch later."""


class ProviderBatches:
    """Implements `routoo.ports.BatchProvider` over HTTP; an async context manager.

    Args:
        timeout_s: Longest wait for the answer to a short request, in seconds; files get more.
        counters: Where models' tokenizers are kept.
        blocked: Addresses that are not connected to.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 60.0,
        counters: TokenCounters | None = None,
        blocked: BlockedNetworks = NONE_BLOCKED,
    ) -> None:
        self._counters = counters or TokenCounters()
        self._timeout_s = timeout_s
        self._http = HttpClient(max_bytes=_MAX_FILE_BYTES, blocked=blocked)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.__aexit__(*error)

    async def upload(self, model: CandidateModel, name: str, content: bytes) -> str | None:
        """Upload an input file and return its id; nothing is billed yet.

        None where the provider takes the rows with the creation.

        Raises:
            EndpointError: The call failed.
            ConfigError: The key's or the proxy's variable is not set.
        """
        batches = batch_format_of(model)
        request = batches.upload(name, content)
        return None if request is None else batches.read_file_id(*await self._send(model, request))

    async def create(
        self, model: CandidateModel, file_id: str | None, marker: str, rows: Sequence[ProviderRow]
    ) -> ProviderBatch:
        """Ask for a batch.

        Args:
            model: A batch channel.
            file_id: The input file, where there are such files.
            marker: Kept with the batch, so that `find` or `holds` tell whether it was created.
            rows: Its rows.

        Raises:
            BatchPostponedError: The provider surely did not create it, and may do so later.
            EndpointError: The call failed; unless the provider refused it (4xx), the batch may
                exist all the same.
            ConfigError: The key's or the proxy's variable is not set.
        """
        batches = batch_format_of(model)
        given = BatchInput(file_id, rows)
        request = batches.create(model, channel_of(model), given, marker)
        return batches.read_batch(*await self._send(model, request, may_postpone=True))

    async def find(
        self, model: CandidateModel, marker: str, since_s: float
    ) -> ProviderBatch | None:
        """Return the batch that carries a marker, None where the provider has none.

        Of several, as of one that failed and the next attempt, it is one that did not fail.

        Args:
            model: A batch channel.
            marker: As given to `create`.
            since_s: No batch from before this time is looked at, in seconds since the epoch.

        Raises:
            EndpointError, ConfigError: As `create` raises.
        """
        batches, after, failed = batch_format_of(model), None, None
        for _ in range(_MOST_PAGES):
            page = batches.read_page(*await self._send(model, batches.list_page(after)))
            for batch in (one.batch for one in page.batches if one.marker == marker):
                if batch.status != "failed":
                    return batch
                failed = failed or batch
            after = page.next_after
            if after is None or page.batches[-1].created_at_s < since_s:
                break
        return failed

    def keeps_markers(self, model: CandidateModel) -> bool:
        """Return whether `find` can tell batches by their markers."""
        return batch_format_of(model).keeps_markers

    async def list_since(self, model: CandidateModel, since_s: float) -> list[ProviderBatch]:
        """Return the provider's batches since a time, in seconds since the epoch.

        Raises:
            EndpointError: The call failed.
            ConfigError: The key's or the proxy's variable is not set.
        """
        batches, after = batch_format_of(model), None
        found: list[ProviderBatch] = []
        for _ in range(_MOST_PAGES):
            page = batches.read_page(*await self._send(model, batches.list_page(after)))
            found += [one.batch for one in page.batches if one.created_at_s >= since_s]
            after = page.next_after
            if after is None or page.batches[-1].created_at_s < since_s:
                break
        return found

    async def holds(self, model: CandidateModel, batch: ProviderBatch, marker: str) -> bool:
        """Return whether a finished batch was created with a marker, by its outcomes.

        Raises:
            EndpointError: The outcomes can't be had.
            ConfigError: The key's or the proxy's variable is not set.
        """
        batches = batch_format_of(model)
        files = [(await self._send(model, one))[0] for one in batches.result_files(batch)]
        return batches.read_marker(files, [marker]) is not None

    async def get(self, model: CandidateModel, provider_id: str) -> ProviderBatch:
        """Return how far a batch has come.

        Raises:
            EndpointError: The call failed; with status 404 the provider has no such batch.
            ConfigError: The key's or the proxy's variable is not set.
        """
        batches = batch_format_of(model)
        return batches.read_batch(*await self._send(model, batches.get(provider_id)))

    async def cancel(self, model: CandidateModel, provider_id: str) -> None:
        """Ask the provider to stop; what it has answered is kept, and billed.

        Raises:
            EndpointError: The call failed, or the batch is over.
            ConfigError: The key's or the proxy's variable is not set.
        """
        batches = batch_format_of(model)
        await self._send(model, batches.cancel(provider_id))

    async def outcomes(
        self, model: CandidateModel, batch: ProviderBatch, rows: Sequence[ProviderRow]
    ) -> dict[str, Outcome]:
        """Download a finished batch's files; return what came of each row, by its custom_id.

        Raises:
            EndpointError: A file can't be had.
            ConfigError: The key's or the proxy's variable is not set, or the tokenizer not there.
        """
        batches = batch_format_of(model)
        files = [(await self._send(model, one))[0] for one in batches.result_files(batch)]
        return batches.read_outcomes(files, model, batch, rows, self._counters.of(model))

    async def _send(
        self, model: CandidateModel, request: BatchApiRequest, *, may_postpone: bool = False
    ) -> tuple[bytes, str]:
        """Return the body of a successful response, and the URL that it came from for messages."""
        access, format_ = find_access(model, os.environ), format_of(model)
        headers = dict(format_.headers)
        if not isinstance(request.data, bytes):
            headers.pop(_CONTENT_TYPE, None)  # a form brings one of its own
        target = target_of(model.endpoint, request.path, access, headers)
        reply = await self._http.send(
            target,
            request.data,
            timeout_s=_FILE_TIMEOUT_S if request.moves_file else self._timeout_s,
            method=request.method,
            params=request.params,
        )
        if reply.status in _SUCCESSES:
            return reply.body, target.where
        details = format_.read_error(reply.status, reply.body)
        error = error_of_response(
            details, reply.status, reply.headers, where=target.where, secret=access.key
        )
        if may_postpone and _is_postponed(model, reply, error):
            raise BatchPostponedError(
                str(error), http_status=reply.status, retry_after_s=error.retry_after_s
            )
        raise error


def batch_format_of(model: CandidateModel) -> BatchFormat:
    """Return the format of the batch API behind a model's batch channel.

    Raises:
        ValueError: The provider's API has no batches.
    """
    batches = format_of(model).batches
    if batches is None:
        raise ValueError(f"the API of {model.name} has no batches")
    return batches


def channel_of(model: CandidateModel) -> BatchChannel:
    """Return the batch channel that a candidate stands for.

    Raises:
        ValueError: It stands for none.
    """
    if model.batch_channel is None or not model.is_batch_channel:
        raise ValueError(f"no batch channel: {model.name}")
    return model.batch_channel


def _is_postponed(model: CandidateModel, reply: HttpReply, error: EndpointError) -> bool:
    """Return whether a refusal to take a batch passes by itself."""
    if reply.status not in _PASSING_REFUSALS:
        return False
    return batch_format_of(model).is_postponed(reply.body) or isinstance(error, RateLimitedError)
