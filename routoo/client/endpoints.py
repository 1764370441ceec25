"""Calls model endpoints: one pool of connections serves many endpoints under shared limits."""

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, Self

import structlog

from routoo.client.access import check_variables
from routoo.client.failures import error_of_response, unreadable
from routoo.client.formats.wire_format import SentCall, encode_json
from routoo.client.http import HttpClient, HttpReply, decode_json
from routoo.client.limiter.account_exchange import LimitSync
from routoo.client.limiter.endpoint_limiter import EndpointLimiter, WaitingCall, admit_to_any
from routoo.client.model_endpoints import ModelEndpoint, ModelEndpoints
from routoo.client.ratelimit_headers import read_rate_limits
from routoo.client.stream import AnswerStream
from routoo.client.token_counts import TokenCounters
from routoo.domain.absence import Absence
from routoo.domain.behaviour import KnownBehaviour, behaviour_key
from routoo.domain.completion import Completion
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_completion_tokens
from routoo.errors import (
    EndpointError,
    LimitFieldRefusedError,
    RequestRejectedError,
    RoutooError,
)
from routoo.limits.account import MemoryLimits
from routoo.ports import SharedLimits

_log = structlog.get_logger(__name__)
_SUCCESSES = range(200, 300)
_STREAM_OPTIONS = "stream_options"
"""Field of a request that some endpoints refuse."""
_LOOKS, _LOOK_POLL_S = 100, 0.02
"""How often, and how far apart in seconds, to look whether the shared accounts have answered."""


class ChatEndpoints:
    """Implements `routoo.ports.ChatClient` over HTTP; an async context manager.

    Args:
        models: Candidate models whose keys and tokenizers must be there from the start; others may
            be called too, and are checked on their first call.
        environ: Where API keys and proxies are looked up, by the names in the pool; the process's
            environment if unset.
        limits: The accounts of the endpoints, shared with other processes; where unset, this
            process is taken to be the only one that calls the endpoints.
        counters: Where models' tokenizers are kept.
        http: Sends the requests; unset, one that connects to any address.
        behaviour: What is known of endpoints; what calls show is added to it.

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
        http: HttpClient | None = None,
        behaviour: KnownBehaviour | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        counters = counters or TokenCounters()
        models = tuple(models)
        check_variables(models, environ)
        counters.load(models)
        self.behaviour = KnownBehaviour() if behaviour is None else behaviour
        self._http = http or HttpClient()
        self._sync = LimitSync(limits or MemoryLimits(), lambda: self._endpoints.limiters)
        self._endpoints = ModelEndpoints(environ, counters, self._sync.wake)
        self._syncing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        self._syncing = asyncio.create_task(self._sync.run())
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
            await self._sync.close()
        await self._http.__aexit__(*error)

    def admit(self, model: CandidateModel, tokens: int, *, retry: bool = False) -> "EndpointPermit":
        """Wait until an endpoint of the model admits a call, and hold the permit to make it."""
        return EndpointPermit(self._endpoints.of(model), tokens, retry=retry)

    def absence(self, model: CandidateModel) -> Absence | None:
        """Return why all of a model's endpoints take no calls; None where one works."""
        found = [limiter.absence for limiter in self._endpoints.of(model)]
        known = [absence for absence in found if absence is not None]
        if len(known) < len(found):
            return None
        return min(known, key=lambda one: math.inf if one.rest_s is None else one.rest_s)

    def queue_s(self, model: CandidateModel) -> float:
        """Return how long a call waits for slots and limits where that is shortest, in seconds."""
        return min(limiter.queue_s for limiter in self._endpoints.of(model))

    async def look_again(self) -> None:
        """Ask the shared accounts of endpoints that denied every request whether they still do."""
        limiters = self._endpoints.limiters
        for limiter in limiters:
            limiter.look_again()
        for _ in range(_LOOKS):
            if not any(limiter.is_asking for limiter in limiters):
                break
            await asyncio.sleep(_LOOK_POLL_S)

    async def complete(
        self, model: CandidateModel, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        """Make one call, without retries.

        Args:
            model: The candidate model to ask.
            body: A chat request (`messages`) or a plain one (`prompt`); passed through unchanged
                but for `model` and the limit of its tokens, in the field that the endpoint reads.
            timeout_s: Longest wait for the answer, in seconds; the endpoint's own limit holds too.

        Raises:
            EndpointError: The call failed; its class says whether a retry may help.
            ConfigError: The variable that should hold the API key or the proxy is not set.
        """
        (endpoint,) = islice(self._endpoints.of(model).values(), 1)
        with _failures_noted(endpoint.limiter):
            completion = await self._ask(endpoint, body, timeout_s)
        if completion.failure is None:
            endpoint.limiter.note_answer()
            return completion
        return replace(completion, failure=endpoint.limiter.note_failure(completion.failure))

    @asynccontextmanager
    async def stream(
        self, model: CandidateModel, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> AsyncIterator[AnswerStream]:
        """Make one call, and yield its answer while the model still writes it.

        Args:
            model: As for `complete`.
            body: As for `complete`, without `stream` and `stream_options`.
            timeout_s: Longest wait for the answer's end, in seconds.

        Raises:
            EndpointError: The call failed before its answer began.
            ConfigError: As `complete`.
        """
        (endpoint,) = islice(self._endpoints.of(model).values(), 1)
        most_s = endpoint.model.endpoint.timeout_s
        ends_s = time.perf_counter() + min(timeout_s or most_s, most_s)
        async with AsyncExitStack() as exits:
            with _failures_noted(endpoint.limiter):
                stream = await self._begin(endpoint, body, ends_s, exits)
            endpoint.limiter.note_answer()
            yield stream

    async def _begin(
        self, endpoint: ModelEndpoint, body: Mapping[str, Any], ends_s: float, exits: AsyncExitStack
    ) -> AnswerStream:
        """Send a call; once more where it was refused for a field that need not be there."""
        model, asks_usage = self.behaviour.apply(endpoint.model), True
        while True:
            try:
                return await self._open(
                    endpoint, model, _streamed(body, asks_usage=asks_usage), ends_s, exits
                )
            except LimitFieldRefusedError:
                other = self._after_refusal(endpoint, model, body)
                if other is None:
                    raise
                model = other
            except RequestRejectedError as error:
                if not asks_usage or _STREAM_OPTIONS not in str(error):
                    raise
                asks_usage = False

    async def _open(
        self,
        endpoint: ModelEndpoint,
        model: CandidateModel,
        body: Mapping[str, Any],
        ends_s: float,
        exits: AsyncExitStack,
    ) -> AnswerStream:
        target = endpoint.targets[endpoint.format.path_of(body)]
        data = encode_json(endpoint.format.request(model, body), where=target.where)
        started_s = time.perf_counter()
        opening = self._http.stream(target, data, timeout_s=max(0.001, ends_s - started_s))
        opened = await exits.enter_async_context(opening)
        status, headers = opened.response.status, opened.response.headers
        rate_limits = read_rate_limits(headers)
        if rate_limits is not None:
            endpoint.limiter.note_headers(rate_limits)
        if status not in _SUCCESSES:
            details = endpoint.format.read_error(status, await opened.whole())
            secret = endpoint.access.key
            raise error_of_response(details, status, headers, where=target.where, secret=secret)
        call = SentCall(model, body, target.where, endpoint.counter, endpoint.access.key)
        return AnswerStream(opened.pieces(), endpoint.format, call, status, started_s)

    async def _ask(
        self, endpoint: ModelEndpoint, body: Mapping[str, Any], timeout_s: float | None
    ) -> Completion:
        """Ask, and ask once more at once where the endpoint refused the field of the limit."""
        most_s = endpoint.model.endpoint.timeout_s
        ends_s = time.perf_counter() + min(timeout_s or most_s, most_s)
        model = self.behaviour.apply(endpoint.model)
        while True:
            try:
                completion = await self._send(endpoint, model, body, ends_s)
            except LimitFieldRefusedError:
                other = self._after_refusal(endpoint, model, body)
                if other is None:
                    raise
                model = other
            else:
                if self.behaviour.note_usage(model, body, completion.usage):
                    _log_excess(self.behaviour, model, completion)
                return completion

    def _after_refusal(
        self, endpoint: ModelEndpoint, asked: CandidateModel, body: Mapping[str, Any]
    ) -> CandidateModel | None:
        """Return the model to ask instead; None where that may cost more than was reserved."""
        self.behaviour.note_refusal(asked)
        other = self.behaviour.apply(endpoint.model)
        if other is asked:
            return None
        reads = other.endpoint.completion_limit_field
        _log.info("endpoint.limit_field", endpoint=behaviour_key(asked), reads=str(reads))
        costs_more = bound_completion_tokens(body, other) > bound_completion_tokens(body, asked)
        return None if costs_more else other

    async def _send(
        self, endpoint: ModelEndpoint, model: CandidateModel, body: Mapping[str, Any], ends_s: float
    ) -> Completion:
        target = endpoint.targets[endpoint.format.path_of(body)]
        data = encode_json(endpoint.format.request(model, body), where=target.where)
        started_s = time.perf_counter()
        reply = await self._http.send(target, data, timeout_s=max(0.001, ends_s - started_s))
        latency_s = time.perf_counter() - started_s
        call = SentCall(model, body, target.where, endpoint.counter, endpoint.access.key)
        try:
            return _read(endpoint, call, reply, latency_s)
        except RoutooError:
            raise
        except Exception as error:
            raise unreadable(error, target.where, reply.status) from error


def _streamed(body: Mapping[str, Any], *, asks_usage: bool) -> dict[str, Any]:
    """Return a request that has its answer streamed, with what was billed in the last event."""
    options = {_STREAM_OPTIONS: {"include_usage": True}} if asks_usage else {}
    return {**body, "stream": True, **options}


def _log_excess(known: KnownBehaviour, model: CandidateModel, completion: Completion) -> None:
    found, usage = known.of(model), completion.usage
    _log.warning(
        "endpoint.above_bound",
        endpoint=behaviour_key(model),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        extra_prompt_tokens=found.extra_prompt_tokens,
        extra_completion_tokens=found.extra_completion_tokens,
    )


def _read(
    endpoint: ModelEndpoint, call: SentCall, reply: HttpReply, latency_s: float
) -> Completion:
    status, where = reply.status, call.where
    rate_limits = read_rate_limits(reply.headers)
    if rate_limits is not None:
        endpoint.limiter.note_headers(rate_limits)
    if status not in _SUCCESSES:
        details = endpoint.format.read_error(status, reply.body)
        secret = endpoint.access.key
        raise error_of_response(details, status, reply.headers, where=where, secret=secret)
    answer = decode_json(reply.body, where=where, http_status=status)
    return endpoint.format.read_completion(answer, call, http_status=status, latency_s=latency_s)


class EndpointPermit:
    """Implements `routoo.ports.Permit`; an async context manager.

    Args:
        endpoints: The model's endpoints by their limiters.
        tokens: What the call will probably take, prompt and completion together.
        retry: Whether an earlier call for the same job failed.
    """

    def __init__(
        self, endpoints: Mapping[EndpointLimiter, ModelEndpoint], tokens: int, *, retry: bool
    ) -> None:
        self._endpoints, self._call, self._retry = endpoints, WaitingCall(tokens), retry
        self._bucket_no: int | None = None
        self._started_at_s: float | None = None

    async def __aenter__(self) -> Self:
        for limiter, endpoint in self._endpoints.items():
            limiter.expect(self._call.tokens, endpoint.limits)
        self._limiter = await admit_to_any(self._endpoints.keys(), retry=self._retry)
        self._admitted_at_s = self._limiter.now_s()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._started_at_s is not None:
            self._limiter.prefetch.note_call(self._limiter.now_s() - self._started_at_s)
        self._limiter.release(started=self._started_at_s is not None)

    @property
    def model(self) -> CandidateModel:
        """The model to ask, with the endpoint that admitted the call as its only one."""
        return self._endpoints[self._limiter].model

    @property
    def starts_soon(self) -> bool:
        """Whether the call may start while the next commit is awaited."""
        return self._limiter.starts_soon(self._call)

    async def start(self) -> None:
        """Wait until the call may be sent.

        Raises:
            EndpointClosedError: The endpoint asked for a pause or its breaker opened meanwhile.
        """
        self._limiter.prefetch.note_ready(self._limiter.now_s() - self._admitted_at_s)
        self._bucket_no = await self._limiter.start(self._call)
        self._started_at_s = self._limiter.now_s()

    def used(self, tokens: int) -> None:
        """Report how many tokens the call took, prompt and completion together."""
        self._limiter.correct_tokens(self._bucket_no, tokens - self._call.tokens)
        if self._retry:
            self._limiter.note_answered_retry()


@contextmanager
def _failures_noted(limiter: EndpointLimiter) -> Iterator[None]:
    """Tell a limiter when the call in the block fails; it knows what that means."""
    try:
        yield
    except EndpointError as error:
        found = limiter.note_failure(error)
        if found is error:
            raise
        raise found from error
