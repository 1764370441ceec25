"""Calls to OpenAI-compatible model endpoints: one session, many endpoints."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from routoo.client.failures import CALL_ERRORS, error_of_exception, error_of_response
from routoo.client.wire import (
    decode_answer,
    encode_request,
    path_of,
    request_to_send,
    usage_of,
)
from routoo.domain.completion import Completion
from routoo.domain.pool import CandidateModel, Endpoint
from routoo.errors import ConfigError

CONNECT_TIMEOUT_S = 10.0
"""Longest wait for a TCP connection, in seconds."""

_Place = tuple[Endpoint, str]


class ChatEndpoints:
    """Implements `routoo.ports.ChatClient` over one aiohttp session; an async context manager.

    Args:
        models: Candidate models whose keys must be there from the start; others may be called too,
            and are checked on their first call.
        environ: Where API keys are looked up, by the names in the pool; the process's environment
            if unset.

    Raises:
        ConfigError: Variables that the models' `api_key_env` name are not set; names them all.
    """

    def __init__(
        self, models: Iterable[CandidateModel] = (), *, environ: Mapping[str, str] | None = None
    ) -> None:
        self._environ = os.environ if environ is None else environ
        self._slots: dict[_Place, asyncio.Semaphore] = {}
        self._session: aiohttp.ClientSession | None = None
        check_keys(models, self._environ)

    async def __aenter__(self) -> Self:
        # limit=0: our semaphores bound an endpoint's connections; aiohttp's default of 100 over
        # all endpoints would let a slow one starve the others.
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        self._session = aiohttp.ClientSession(connector=connector)
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

    @asynccontextmanager
    async def slot(self, model: CandidateModel) -> AsyncIterator[None]:
        """Wait for a free place among the endpoint's concurrent calls, and hold it."""
        place = (model.endpoint, model.model_at_endpoint)
        if place not in self._slots:
            self._slots[place] = asyncio.Semaphore(model.endpoint.max_concurrency)
        async with self._slots[place]:
            yield

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
            ConfigError: The variable that should hold the API key is not set.
        """
        url = url_of(model.endpoint, body)
        where = str(url.with_query(None))
        sent = request_to_send(model, body)
        data = encode_request(sent, where=where)
        key = self._key(model)
        limit_s = min(timeout_s or model.endpoint.timeout_s, model.endpoint.timeout_s)
        started = time.perf_counter()
        status, headers, raw = await self._post(url, data, key=key, limit_s=limit_s)
        latency_s = time.perf_counter() - started
        if not 200 <= status < 300:  # noqa: PLR2004 - the range of successes
            raise error_of_response(status, headers, raw, where=where, secret=key)
        answer, text = decode_answer(raw, where=where, http_status=status)
        return Completion(text, answer, usage_of(answer, body, model), status, latency_s)

    async def _post(
        self, url: URL, data: bytes, *, key: str | None, limit_s: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            raise RuntimeError("ChatEndpoints must be entered with `async with` before a call")
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        # `total` would count the wait for a connection; asyncio.timeout covers the whole call.
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=limit_s
        )
        try:
            async with (
                asyncio.timeout(limit_s),
                self._session.post(
                    url, data=data, headers=headers, timeout=timeout, allow_redirects=False
                ) as response,
            ):
                return response.status, response.headers, await response.read()
        except CALL_ERRORS as error:
            raise error_of_exception(error, where=str(url.with_query(None))) from error

    def _key(self, model: CandidateModel) -> str | None:
        name = model.endpoint.api_key_env
        if name is None:
            return None
        check_keys([model], self._environ)
        return self._environ[name].strip()


def check_keys(models: Iterable[CandidateModel], environ: Mapping[str, str]) -> None:
    """Check that every API key that the models need is in the environment.

    Raises:
        ConfigError: Some are not; names all their variables.
    """
    named = {model.endpoint.api_key_env: model.name for model in models}
    missing = sorted(name for name in named if name and not environ.get(name, "").strip())
    if missing:
        raise ConfigError(
            f"the environment variable {', '.join(missing)} is not set",
            where=f"API key of {', '.join(named[name] for name in missing)}",
            remedy="Set it to the endpoint's API key, or remove api_key_env if none is needed",
        )


def url_of(endpoint: Endpoint, body: Mapping[str, Any]) -> URL:
    """Return where a request goes: below the base URL, whose query string is kept."""
    base = URL(endpoint.base_url)
    return base.joinpath(*path_of(body).split("/")).with_query(base.query)
