"""Starts the servers that a benchmark measures against: a database, and a stand-in endpoint."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from routoo.embedded.postgres import EmbeddedPostgres
from routoo.store.migrate import upgrade

HERE = Path(__file__).resolve().parent


@contextmanager
def migrated_database(given: str | None, folder: Path) -> Iterator[str]:
    """Yield the URL of a migrated database: the given one, or one of an embedded server.

    Args:
        given: URL of an empty database; None starts a server for as long as the block runs.
        folder: Where that server keeps its data.
    """
    server = None if given else EmbeddedPostgres(folder)
    try:
        url = given or (server.start() if server is not None else "")
        upgrade(url)
        yield url
    finally:
        if server is not None:
            server.stop()


@contextmanager
def endpoint_server(latency_s: float) -> Iterator[str]:
    """Run an endpoint that answers after `latency_s` seconds; yield its base URL."""
    command = [sys.executable, HERE / "dispatch_server.py", "--latency-s", str(latency_s)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
    finally:
        server.stdin.close()
        server.wait(10)
