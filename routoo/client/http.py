"""Sends HTTP requests over aiohttp: pooled connections, time limits, bodies of a limited size."""

import asyncio
import codecs
import io
import json
import math
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple, Self

import aiohttp
import orjson
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from routoo.client.access import Access
from routoo.client.failures import (
    CALL_ERRORS,
    BlockedAddressError,
    error_of_exception,
    unreadable,
)
from routoo.domain.endpoint import Endpoint
from routoo.domain.networks import NONE_BLOCKED, BlockedNetworks
from routoo.domain.prompt import unicode_text
from routoo.errors import EndpointError, InvalidResponseError

MAX_ANSWER_BYTES = 16 * 2**20
"""Largest body of an answer, decompressed, unless a caller gives another limit."""
_CONNECT_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
"""Only connecting is limited here: `total` would include the wait for a connection, and whole
requests have a limit of their own."""
_LARGE_ANSWER_BYTES, _LARGE_AT_ONCE = 2**18, 8
"""Of answers that are larger than this, only so many are read at the same time."""
_TOO_LARGE = "Raise ROUTOO_MAX_ANSWER_BYTES if such answers are expected"
_BLOCKED = "its address is in a network that ROUTOO_BLOCKED_NETWORKS names"
_LARGE_REQUEST_BYTES = 2**20
"""aiohttp writes larger bodies in parts only if they come as a file."""


class HttpReply(NamedTuple):
    """A response, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpTarget:
    """What requests to one URL of an endpoint have in common."""

    url: URL
    headers: CIMultiDict[str]
    access: Access
    where: str
    """The URL for messages, without its query."""


def target_of(
    endpoint: Endpoint, path: str, access: Access, headers: Mapping[str, str]
) -> HttpTarget:
    """Return the target of a path below an endpoint's base URL, whose query string is kept.

    Args:
        endpoint: Where the base URL stands.
        path: Without a slash before it.
        access: Key and proxy.
        headers: Further headers of every request.
    """
    base = URL(endpoint.base_url)
    url = base.joinpath(*path.split("/")).with_query(base.query)
    all_headers = CIMultiDict({**headers, **access.headers})
    return HttpTarget(url, all_headers, access, str(url.with_query(None)))


class HttpClient:
    """Sends requests; an async context manager.

    Args:
        max_bytes: Largest body that is read, decompressed, in bytes.
        blocked: Addresses that are not connected to, whatever names stand for them.
    """

    def __init__(
        self,
        *,
        max_bytes: int = MAX_ANSWER_BYTES,
        blocked: BlockedNetworks = NONE_BLOCKED,
    ) -> None:
        self._max_bytes, self._blocked = max_bytes, blocked
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # limit=0: limiters bound the calls of each endpoint; aiohttp's default of 100 connections
        # over all endpoints would let a slow one starve the others.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                ttl_dns_cache=300,
                socket_factory=self._unblocked_socket if self._blocked else None,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=_CONNECT_TIMEOUT,
            raise_for_status=False,
            auto_decompress=True,
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _unblocked_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Open a socket for an address, the one that is about to be connected to.

        So a name that stands for another address at each look (DNS rebinding) gains nothing.
        """
        family, kind, protocol, _, (host, *_) = address
        if self._blocked.blocks(str(host)):
            raise BlockedAddressError(_BLOCKED)
        return socket.socket(family, kind, protocol)

    async def send(
        self,
        target: HttpTarget,
        data: bytes | aiohttp.FormData | None,
        *,
        timeout_s: float,
        method: str = "POST",
        params: Mapping[str, str] | None = None,
    ) -> HttpReply:
        """Send a request and read the whole response, whatever its status.

        Cancelling closes the connection.

        Raises:
            EndpointError: The connection failed or broke, the response is not HTTP, it did not end
                within `timeout_s` seconds, or its body is too large.
        """
        session = self._opened
        try:
            async with (
                asyncio.timeout(timeout_s),
                await _request(session, target, data, method, params) as response,
            ):
                return await self._read(response, target.where)
        except CALL_ERRORS as error:
            raise error_of_exception(error, where=target.where) from error
        except EndpointError:
            raise
        except Exception as error:
            raise unreadable(error, target.where) from error

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client must be entered with `async with` before a call")
        return self._session

    @asynccontextmanager
    async def stream(
        self, target: HttpTarget, data: bytes, *, timeout_s: float
    ) -> AsyncIterator["HttpStream"]:
        """Send a request, and yield the response as soon as its headers are there.

        Leaving the block before the body has ended closes the connection.

        Raises:
            EndpointError: As `send` does; a body that takes longer than `timeout_s` seconds too.
        """
        session, ends_s = self._opened, time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                response = await _request(session, target, data)
        except CALL_ERRORS as error:
            raise error_of_exception(error, where=target.where) from error
        try:
            yield HttpStream(response, target.where, ends_s, self._max_bytes)
        finally:
            response.close()

    async def _read(self, response: aiohttp.ClientResponse, where: str) -> HttpReply:
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            response.close()
            raise aiohttp.ClientPayloadError("the server switched to another protocol")
        body = _Body(response.content)
        await body.read(min(_LARGE_ANSWER_BYTES, self._max_bytes))
        if not body.is_whole:
            async with self._large:  # so that many large answers at once don't fill the memory
                await body.read(self._max_bytes)
        if body.size > self._max_bytes:
            body.clear()  # the error's traceback holds it
            raise InvalidResponseError(
                f"the answer is larger than {self._max_bytes} bytes",
                where=where,
                remedy=_TOO_LARGE,
                http_status=response.status,
            )
        return HttpReply(response.status, response.headers, body.joined())


@dataclass(slots=True)
class HttpStream:
    """A response whose body is read piece by piece."""

    response: aiohttp.ClientResponse
    where: str
    ends_s: float
    """When its body must have ended, by the monotonic clock."""
    max_bytes: int

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            EndpointError: It broke off, took too long, or is too large.
        """
        content, size = self.response.content, 0
        while not content.at_eof():
            try:
                async with asyncio.timeout(max(0.001, self.ends_s - time.monotonic())):
                    piece = await content.readany()
            except CALL_ERRORS as error:
                raise error_of_exception(error, where=self.where) from error
            size += len(piece)
            if size > self.max_bytes:
                raise InvalidResponseError(
                    f"the answer is larger than {self.max_bytes} bytes", where=self.where
                )
            await _let_others_on(size)
            yield piece

    async def whole(self) -> bytes:
        """Return the whole body, of an error."""
        return b"".join([piece async for piece in self.pieces()])


async def _let_others_on(size_bytes: int) -> None:
    """Let the event loop do other work while a large body is read.

    A small body that is packed well (a bomb) is unpacked as it is read, and never waits for the
    network: reading it would keep the loop from all other calls and from its own time limit.
    """
    if size_bytes > _LARGE_ANSWER_BYTES:
        await asyncio.sleep(0)


class _Body:
    """What was read of a response's body."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content, self._chunks = content, list[bytes]()
        self.size = 0
        """In bytes, decompressed."""

    @property
    def is_whole(self) -> bool:
        """Whether it was read to its end."""
        return self._content.at_eof()

    async def read(self, most_bytes: int) -> None:
        """Read on to the end, or until more than so many bytes were read."""
        while not self._content.at_eof() and self.size <= most_bytes:
            chunk = await self._content.readany()
            self.size += len(chunk)
            self._chunks.append(chunk)
            await _let_others_on(self.size)

    def clear(self) -> None:
        """Forget what was read."""
        self._chunks.clear()

    def joined(self) -> bytes:
        """Return the whole body."""
        return self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)


_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode_json(raw: bytes, *, where: str, http_status: int) -> object:
    """Return the body of a successful response.

    What strict JSON refuses is replaced: numbers that are none by null, half a surrogate and bytes
    that are no UTF-8 by U+FFFD. A byte-order mark and control characters in texts are read.

    Args:
        raw: The body.
        where: The endpoint's URL for messages.
        http_status: Of the response.

    Raises:
        InvalidResponseError: It is not JSON, or nested too deep to be kept.
    """
    try:
        answer = _decode(raw)
        orjson.dumps(answer)  # what can be read may be nested too deep to be written again
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidResponseError(
            _what_is_wrong(error), where=where, http_status=http_status
        ) from None  # its cause would keep the whole answer in memory
    return answer


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, TypeError | RecursionError):
        return "the answer is nested too deep to be kept"
    return f"the answer is not JSON: {error}"


def _decode(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _decode_leniently(raw)


def _decode_leniently(raw: bytes) -> object:
    encoding = next(
        (name for mark, name in _BYTE_ORDER_MARKS.items() if raw.startswith(mark)), None
    )
    text = raw.decode(encoding or "utf-8", errors="replace")
    answer = json.loads(
        text, strict=False, parse_constant=_none_of, parse_float=_finite, parse_int=_finite_int
    )
    return orjson.loads(unicode_text(json.dumps(answer, ensure_ascii=False)))


def _none_of(_constant: str) -> None:
    """Stand for NaN and Infinity."""


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _finite_int(text: str) -> int | float | None:
    return int(text) if len(text) < len(str(2**63)) else _finite(text)


async def _request(
    session: aiohttp.ClientSession,
    target: HttpTarget,
    data: bytes | aiohttp.FormData | None,
    method: str = "POST",
    params: Mapping[str, str] | None = None,
) -> aiohttp.ClientResponse:
    """Send a request, and return the response once its headers are there.

    Redirects are not followed, because they would carry the key elsewhere.
    """
    is_large = isinstance(data, bytes) and len(data) > _LARGE_REQUEST_BYTES
    return await session.request(
        method,
        target.url,
        data=io.BytesIO(data) if isinstance(data, bytes) and is_large else data,
        params=params,
        headers=target.headers,
        allow_redirects=False,
        proxy=target.access.proxy,
        proxy_headers=target.access.proxy_headers,
    )
