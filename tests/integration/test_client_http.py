"""Answers as servers of all kinds send them, byte by byte."""

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from yarl import URL

from routoo.client.access import Access
from routoo.client.post import Poster, Reply, Route
from routoo.errors import ConfigError

DIRECT = Access({}, None, None, None)
ANSWER = b'{"choices": []}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n" + ANSWER


class Server:
    """Answers every request with the same bytes, and keeps what it was sent."""

    def __init__(self, answer: bytes, *, hangs_up: bool = False) -> None:
        self.answer, self.hangs_up = answer, hangs_up
        self.received: list[bytes] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.received.append(head + await reader.readexactly(length))
                writer.write(self.answer)
                if self.hangs_up:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def posting(
    server: Server, access: Access = DIRECT
) -> AsyncIterator[Callable[[bytes], Awaitable[Reply]]]:
    """Yield what posts a body to the server."""
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    poster = Poster()
    route = Route(URL(f"http://127.0.0.1:{port}/v1/chat?api-version=2"), access)
    try:
        yield lambda body: poster.post(route, body)
    finally:
        await poster.close()
        listener.close()


async def test_head_and_body_arrive_as_one_request_with_the_endpoints_headers() -> None:
    server = Server(PLAIN)
    async with posting(server, Access({"api-key": "k"}, "k", None, None)) as post:
        reply = await post(b'{"model": "m"}')
    assert (reply.status, reply.raw) == (200, ANSWER)
    head, _, body = server.received[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat?api-version=2 HTTP/1.1"
    assert {b"api-key: k", b"Content-Type: application/json", b"Content-Length: 14"} <= set(lines)
    assert [line for line in lines if line.lower().startswith(b"host:")]
    assert body == b'{"model": "m"}'


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + PLAIN,
        b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"7\r\n" + ANSWER[:7] + b"\r\n8\r\n" + ANSWER[7:] + b"\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: "
        + str(len(gzip.compress(ANSWER, mtime=0))).encode()
        + b"\r\n\r\n"
        + gzip.compress(ANSWER, mtime=0),
    ],
    ids=["early hints", "continue", "chunked", "gzip"],
)
async def test_an_answer_in_any_form_is_read_whole_and_its_connection_kept(answer: bytes) -> None:
    server = Server(answer)
    async with posting(server) as post:
        for _ in range(3):
            reply = await post(b"{}")
            assert (reply.status, reply.raw) == (200, ANSWER)
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [PLAIN, b"HTTP/1.0 200 OK\r\n\r\n" + ANSWER],
    ids=["by its length", "to the end of the connection"],
)
async def test_a_server_that_hangs_up_after_an_answer_is_called_on_a_new_connection(
    answer: bytes,
) -> None:
    server = Server(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), hangs_up=True)
    async with posting(server) as post:
        for _ in range(3):
            assert (await post(b"{}")).raw == ANSWER
    assert server.connections == 3


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", aiohttp.ServerDisconnectedError),
        (PLAIN[:-3], aiohttp.ClientPayloadError),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", aiohttp.ClientPayloadError),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", aiohttp.ClientPayloadError),
    ],
    ids=["nothing", "half a body", "no HTTP", "another protocol"],
)
async def test_what_is_no_whole_answer_is_an_error_and_its_connection_is_closed(
    answer: bytes, error: type[Exception]
) -> None:
    server = Server(answer, hangs_up=True)
    async with posting(server) as post:
        with pytest.raises(error):
            await post(b"{}")
        server.answer = PLAIN
        assert (await post(b"{}")).raw == ANSWER


async def test_a_call_that_is_cancelled_leaves_no_answer_for_the_next() -> None:
    server = Server(b"")
    async with posting(server) as post:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await post(b"{}")
        server.answer = PLAIN
        assert (await post(b"{}")).raw == ANSWER
    assert server.connections == 2


async def test_a_large_request_arrives_whole() -> None:
    server = Server(PLAIN)
    body = b"x" * 20_000_000
    async with posting(server) as post:
        assert (await post(body)).status == 200
    assert server.received[0].endswith(body)


async def test_a_key_with_a_line_break_is_refused_and_not_shown() -> None:
    access = Access({"Authorization": "Bearer s3cret\r\nX: y"}, "s3cret", None, None)
    with pytest.raises(ConfigError, match="line break") as caught:
        Route(URL("http://127.0.0.1:1/v1"), access)
    assert "s3cret" not in str(caught.value)
