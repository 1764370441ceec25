"""Answers as servers of all kinds send them, byte by byte."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from routoo.client.access import Access
from routoo.client.http import HttpClient, HttpReply, target_of
from routoo.domain.endpoint import Endpoint
from routoo.errors import EndpointTimeoutError, InvalidResponseError

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
    server: Server, access: Access = DIRECT, *, timeout_s: float = 30.0, max_bytes: int = 1_000_000
) -> AsyncIterator[Callable[[bytes], Awaitable[HttpReply]]]:
    """Yield what posts a body to the server."""
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    endpoint = Endpoint(base_url=f"http://127.0.0.1:{port}/v1?api-version=2")
    target = target_of(endpoint, "chat", access, {"Content-Type": "application/json"})
    try:
        async with HttpClient(max_bytes=max_bytes) as client:
            yield lambda body: client.send(target, body, timeout_s=timeout_s)
    finally:
        listener.close()


async def test_head_and_body_arrive_as_one_request_with_the_endpoints_headers() -> None:
    server = Server(PLAIN)
    async with posting(server, Access({"api-key": "k"}, "k", None, None)) as post:
        reply = await post(b'{"model": "m"}')
    assert (reply.status, reply.body) == (200, ANSWER)
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
            assert (reply.status, reply.body) == (200, ANSWER)
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
            assert (await post(b"{}")).body == ANSWER
    assert server.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        PLAIN[:-3],
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        PLAIN.replace(b"Content-Length", b"X: " + b"x" * 1_000_000 + b"\r\nContent-Length"),
        PLAIN.replace(b"Content-Length", b"Content-Encoding: gzip\r\nContent-Length"),
    ],
    ids=["nothing", "half a body", "no HTTP", "another protocol", "huge header", "no gzip"],
)
async def test_what_is_no_whole_answer_is_an_error_and_its_connection_is_closed(
    answer: bytes,
) -> None:
    server = Server(answer, hangs_up=True)
    async with posting(server) as post:
        with pytest.raises(InvalidResponseError):
            await post(b"{}")
        server.answer = PLAIN
        assert (await post(b"{}")).body == ANSWER


async def test_a_call_that_is_cancelled_leaves_no_answer_for_the_next() -> None:
    server = Server(b"")
    async with posting(server) as post:
        call = asyncio.ensure_future(post(b"{}"))
        while not server.received:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        server.answer = PLAIN
        assert (await post(b"{}")).body == ANSWER
    assert server.connections == 2


async def test_an_answer_that_takes_too_long_is_a_timeout_and_its_connection_is_closed() -> None:
    server = Server(b"")
    async with posting(server, timeout_s=1.0) as post:
        with pytest.raises(EndpointTimeoutError):
            await post(b"{}")
        server.answer = PLAIN
        assert (await post(b"{}")).body == ANSWER
    assert server.connections == 2


def answer_with(body: bytes, encoding: bytes = b"identity") -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (encoding, len(body)) + body


def bomb(megabytes: int) -> bytes:
    """Return gzip's form of a long text of one letter, but for its end, which nobody should see."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = packer.compress(b"x" * 1_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + packed * megabytes


@pytest.mark.parametrize(
    "answer",
    [
        answer_with(b"x" * 1_000_001),
        answer_with(bomb(megabytes=200), b"gzip"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65_536,
    ],
    ids=["plain", "a bomb", "without end"],
)
async def test_a_body_above_the_limit_is_an_error_of_its_call_alone(answer: bytes) -> None:
    endless = b"\r\n10000\r\n" + b"x" * 65_536 if b"chunked" in answer else b""
    server = Server(answer + endless * 100)
    tracemalloc.start()
    try:
        async with posting(server) as post:
            with pytest.raises(InvalidResponseError, match="larger than 1000000 bytes") as caught:
                await post(b"{}")
            assert caught.value.http_status == 200
            server.answer = PLAIN
            assert (await post(b"{}")).body == ANSWER
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20_000_000


async def test_a_body_at_the_limit_is_read() -> None:
    async with posting(Server(answer_with(b"x" * 1_000_000))) as post:
        assert len((await post(b"{}")).body) == 1_000_000


async def test_a_large_request_arrives_whole() -> None:
    server = Server(PLAIN)
    body = b"x" * 20_000_000
    async with posting(server) as post:
        assert (await post(body)).status == 200
    assert server.received[0].endswith(body)
