"""Serves a chat endpoint that costs next to nothing, so that the clients are the slow side.

It answers every POST after a fixed latency with the same small completion, over keep-alive
connections, and over TLS with a certificate. Prints its port, serves until its standard input
closes.
"""

import argparse
import asyncio
import json
import re
import ssl
import sys

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_BODY = json.dumps(
    {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The answer is 42."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 6, "total_tokens": 18},
    }
).encode()
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(_BODY)).encode()
    + b"\r\n\r\n"
    + _BODY
)


class Connection(asyncio.Protocol):
    """One keep-alive connection without pipelining, as HTTP clients use it."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer, a latency after the request is whole."""
        self._received += data
        head, mark, body = self._received.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if mark and len(body) >= (int(found[1]) if found else 0):
            self._received = b""
            asyncio.get_running_loop().call_later(self._latency_s, self._answer)

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_ANSWER)


async def serve(latency_s: float, certificate: str | None) -> None:
    """Serve until the standard input closes.

    Args:
        latency_s: Before each answer, in seconds.
        certificate: File with a certificate and its key; None serves without TLS.
    """
    loop, tls = asyncio.get_running_loop(), None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate)
    server = await loop.create_server(
        lambda: Connection(latency_s), "127.0.0.1", 0, backlog=4096, ssl=tls
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-s", type=float, default=0.05)
    parser.add_argument("--certificate", help="file with a certificate and its key, for TLS")
    options = parser.parse_args()
    uvloop.run(serve(options.latency_s, options.certificate))
