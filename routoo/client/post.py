"""One POST and its whole answer, over aiohttp's pooled connections.

Requests to an endpoint differ by their bodies only, so their head is made once; and a dispatcher
has no use for cookies, redirects and streamed bodies. aiohttp's session prepares all of that for
each request anew, which took more of a core than all else that a call costs. The connections
(names, TLS, proxies, keep-alive) and the parser of answers are aiohttp's.
"""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDictProxy
from yarl import URL

from routoo.client.access import Access
from routoo.errors import ConfigError

CONNECT_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
"""Connecting is limited here; `total` would count the wait for a connection, and callers limit
whole calls themselves."""
_SWITCHING_PROTOCOLS = 101
_FIRST_FINAL_STATUS = 200
_FORBIDDEN = frozenset("\r\n\0")


class Reply(NamedTuple):
    """What came back, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    raw: bytes


class Route:
    """Where requests go, and the head they have in common; made inside the event loop.

    Args:
        url: Where to.
        access: The key's header, and the proxy on the way.

    Raises:
        ConfigError: A header can't be sent.
    """

    def __init__(self, url: URL, access: Access) -> None:
        headers = {"Content-Type": "application/json", **access.headers}
        _check(headers)
        # Never sent: it tells aiohttp which connection is wanted, and its usual headers.
        self.request = aiohttp.ClientRequest(
            "POST",
            url,
            headers=headers,
            loop=asyncio.get_running_loop(),
            proxy=access.proxy,
            proxy_headers=access.proxy_headers,
        )
        lines = [f"POST {_target(self.request)} HTTP/1.1"]
        lines += [
            f"{name}: {value}"
            for name, value in self.request.headers.items()
            if name.lower() != "content-length"
        ]
        self._head = ("\r\n".join(lines) + "\r\nContent-Length: ").encode()

    def message(self, body: bytes) -> bytes:
        """Return a whole request."""
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)


def _check(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if _FORBIDDEN.intersection(name + value):
            # The value may be a key, so it is not shown.
            raise ConfigError(
                "the header holds a line break and can't be sent",
                where=f"header {name.split()[0]}",
                remedy="Remove the line break from the environment variable that holds the key",
            )


def _target(request: aiohttp.ClientRequest) -> str:
    """Return what the request line names: all of the URL where a proxy reads it."""
    if request.proxy is not None and not request.is_ssl():
        return str(request.url)
    return request.url.raw_path_qs


class Poster:
    """Pooled connections; made inside the event loop, to be closed there."""

    def __init__(self) -> None:
        # limit=0: the gates bound an endpoint's connections; aiohttp's default of 100 over all
        # endpoints would let a slow one starve the others.
        self._connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)

    async def close(self) -> None:
        """Close all connections."""
        await self._connector.close()

    async def post(self, route: Route, body: bytes) -> Reply:
        """Send a request and read its answer; cancelled, it closes the connection.

        Raises:
            aiohttp.ClientError: The connection failed or broke, or the answer is not HTTP.
        """
        try:
            connection = await self._connector.connect(route.request, [], CONNECT_TIMEOUT)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"to {route.request.host}") from error
        try:
            reply = await _converse(connection, route.message(body))
        except BaseException:
            connection.close()
            raise
        connection.release()
        return reply


async def _converse(connection: aiohttp.connector.Connection, message: bytes) -> Reply:
    protocol = connection.protocol
    if protocol is None or protocol.transport is None:
        raise aiohttp.ServerDisconnectedError
    protocol.set_response_params(read_until_eof=True)
    protocol.transport.write(message)
    status = 0
    try:
        while status < _FIRST_FINAL_STATUS:  # a server may send early hints first
            head, payload = await protocol.read()
            status = head.code
            if status == _SWITCHING_PROTOCOLS:
                raise aiohttp.ClientPayloadError("the server switched to another protocol")
        return Reply(status, head.headers, await payload.read())
    except HttpProcessingError as error:
        raise aiohttp.ClientPayloadError(f"the answer is not HTTP: {error.message}") from error
