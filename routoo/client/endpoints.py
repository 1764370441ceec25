"""Calls to OpenAI-compatible model endpoints: one pool of connections, many endpoints."""

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Self

from routoo.client.access import check_variables
from routoo.client.deadlines import Deadlines
from routoo.client.failures import CALL_ERRORS, error_of_exception, error_of_response
from routoo.client.formats.openai import (
    decode_answer,
    encode_request,
    path_of,
    request_to_send,
    usage_of,
)
from routoo.client.limiter.limit_sync import LimitSync
from routoo.client.model_endpoints import ModelEndpoint, ModelEndpoints
from routoo.client.permit import EndpointPermit
from routoo.client.post import Poster, Reply
from routoo.client.ratelimit_headers import read_rate_limits
from routoo.client.token_counts import TokenCounters
from routoo.domain.completion import Completion
from routoo.domain.pool import CandidateModel
from routoo.errors import EndpointError
from routoo.limits.account import MemoryLimits
from routoo.ports import SharedLimits


class ChatEndpoints:
    """Implements `routoo.ports.ChatClient` over aiohttp's connections; an async context manager.

    Args:
        models: Candidate models whose keys and tokenizers must be there from the start; others may
            be called too, and are checked on their first call.
        environ: Where API keys and proxies are looked up, by the names in the pool; the process's
            environment if unset.
        limits: The accounts of the endpoints, shared with other processes; where unset, this
            process takes the endpoints for its own.
        counters: Where models' tokenizers are kept.

    Raises:
        ConfigError: Variables that the models' endpoints name are not set; names them all; or a
            tokenizer is not there.
    """

    def __init__(
        self,
        models: Iterable[CandidateModel] = (),
        *,
        environ: Mapping[str, str] | None = None,
        limits: SharedLimits | None = None,
        counters: TokenCounters | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        counters = counters or TokenCounters()
        models = tuple(models)
        check_variables(models, environ)
        counters.load(models)
        self._poster: Poster | None = None
        self._deadlines = Deadlines()
        self._sync = LimitSync(limits or MemoryLimits(), lambda: self._endpoints.limiters)
        self._endpoints = ModelEndpoints(environ, counters, self._sync.wake)
        self._syncing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._poster = Poster()
        self._syncing = asyncio.create_task(self._sync.run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
            await self._sync.close()
        if self._poster is not None:
            await self._poster.close()
            self._poster = None

    def admit(self, model: CandidateModel, tokens: int, *, retry: bool = False) -> EndpointPermit:
        """Wait until a call is near the front of the queue, and hold the permit to make it."""
        return EndpointPermit(self._endpoints.of(model), tokens, retry=retry)

    def outage_s(self, model: CandidateModel) -> float:
        """Return how long all endpoints of a model have kept failing; 0 if one works."""
        return min([limiter.outage_s for limiter in self._endpoints.of(model)])

    async def complete(
        self, model: CandidateModel, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        """Make one call, without retries.

        Args:
            model: The candidate model to ask.
            body: A chat request (`messages`) or a plain one (`prompt`); passed through untouched
                but for `model`, and `max_tokens` where it names no limit.
            timeout_s: Longest wait for the answer, in seconds; the endpoint's own limit holds too.

        Raises:
            EndpointError: The call failed; its class says whether a retry may help.
            ConfigError: The variable that should hold the API key or the proxy is not set.
        """
        (endpoint,) = islice(self._endpoints.of(model).values(), 1)
        try:
            completion = await self._ask(endpoint, body, timeout_s)
        except EndpointError as error:
            endpoint.limiter.note_failure(error)
            raise
        endpoint.limiter.note_answer()
        return completion

    async def _ask(
        self, endpoint: ModelEndpoint, body: Mapping[str, Any], timeout_s: float | None
    ) -> Completion:
        model, path = endpoint.model, path_of(body)
        where = endpoint.where[path]
        data = encode_request(request_to_send(model, body), where=where)
        limit_s = min(timeout_s or model.endpoint.timeout_s, model.endpoint.timeout_s)
        started = time.perf_counter()
        try:
            status, headers, raw = await self._post(endpoint, path, data, limit_s)
        except CALL_ERRORS as error:
            raise error_of_exception(error, where=where) from error
        latency_s = time.perf_counter() - started
        rate_limits = read_rate_limits(headers)
        if rate_limits is not None:
            endpoint.limiter.note_headers(rate_limits)
        if not 200 <= status < 300:  # noqa: PLR2004 - the range of successes
            raise error_of_response(status, headers, raw, where=where, secret=endpoint.access.key)
        answer, text = decode_answer(raw, where=where, http_status=status)
        usage = usage_of(answer, body, model, endpoint.counter)
        return Completion(text, answer, usage, status, latency_s)

    async def _post(self, endpoint: ModelEndpoint, path: str, data: bytes, limit_s: float) -> Reply:
        if self._poster is None:
            raise RuntimeError("ChatEndpoints must be entered with `async with` before a call")
        with self._deadlines.within(limit_s):
            return await self._poster.post(endpoint.routes[path], data)
