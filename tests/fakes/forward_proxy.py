"""A forward proxy of a few lines: it passes plain HTTP on, and tunnels where it is told to."""

import asyncio
import base64
from typing import Self
from urllib.parse import urlsplit


class ForwardProxy:
    """Passes every request on to one server, whatever host it names; an async context manager.

    Args:
        target_port: Where the server listens on this machine.
        credentials: `user:password` that it asks for, where set.
        tunnels: Whether it does what CONNECT asks for; refuses it otherwise.
    """

    def __init__(
        self, target_port: int, *, credentials: str | None = None, tunnels: bool = False
    ) -> None:
        self.targets: list[str] = []
        self._tunnels = tunnels
        self._target_port, self._credentials = target_port, credentials

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.split("\r\n")
        headers = {key.lower(): value for key, _, value in (row.partition(": ") for row in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, target, _version = first.split(" ")
        self.targets.append(target)
        if not self._may_pass(headers):
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        elif method == "CONNECT" and self._tunnels:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await self._tunnel(reader, writer)
        elif method == "CONNECT":
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(await self._pass_on(method, target, headers, body))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        await asyncio.gather(_pour(reader, to_server), _pour(from_server, writer))
        to_server.close()
        await to_server.wait_closed()

    def _may_pass(self, headers: dict[str, str]) -> bool:
        if self._credentials is None:
            return True
        expected = base64.b64encode(self._credentials.encode()).decode()
        return headers.get("proxy-authorization") == f"Basic {expected}"

    async def _pass_on(
        self, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> bytes:
        kept = {k: v for k, v in headers.items() if k and not k.startswith("proxy-")}
        kept["connection"] = "close"
        head = "".join(f"{key}: {value}\r\n" for key, value in kept.items())
        path = target.removeprefix(f"http://{urlsplit(target).netloc}")
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65536):
        writer.write(part)
    writer.write_eof()
