"""Starts what a benchmark measures against: a database, a broker, an endpoint, our programs."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg

from routoo.embedded.folders import server_folders
from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.valkey import EmbeddedValkey
from routoo.settings import REPOSITORY
from routoo.store.administration import upgrade

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
"""Where our programs are."""
MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct")
"""Those that the example's checkpoint knows."""
Value = TypeVar("Value")
_PATIENCE_S = 600.0


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
def endpoint_server(latency_s: float, certificate: Path | None = None) -> Iterator[str]:
    """Run an endpoint that answers after `latency_s` seconds; yield its base URL.

    Args:
        latency_s: In seconds.
        certificate: File with a certificate for 127.0.0.1 and its key; None serves without TLS.
    """
    command = [sys.executable, HERE / "dispatch_server.py", "--latency-s", str(latency_s)]
    if certificate is not None:
        command += ["--certificate", certificate]
    scheme = "http" if certificate is None else "https"
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield f"{scheme}://127.0.0.1:{int(server.stdout.readline())}/v1"
    finally:
        server.stdin.close()
        server.wait(10)


def make_certificate(folder: Path) -> Path:
    """Make a certificate for 127.0.0.1 that signed itself, in one file with its key, by openssl."""
    path, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=bench"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())
    return path


class Stack:
    """The servers that a measurement needs, each started when it is asked for."""

    def __init__(
        self, folder: Path, database_url: str | None, latency_s: float, exits: ExitStack
    ) -> None:
        self.folder, self._exits = folder, exits
        self._database_is_ours = database_url is None
        self.database_url = exits.enter_context(migrated_database(database_url, folder))
        self.endpoint = self._exits.enter_context(endpoint_server(latency_s))
        self.pool = self._pool()
        self.environ = os.environ | {
            "ROUTOO_HOME": str(folder),
            "ROUTOO_DATABASE_URL": self.database_url,
            "ROUTOO_BROKER_URL": self._broker(),
            "ROUTOO_POOL": str(self.pool),
            "ROUTOO_CHECKPOINT": str(REPOSITORY / "examples" / "checkpoint"),
            "ROUTOO_PING_TIMEOUT_S": "0",
            "ROUTOO_RECOVERY_INTERVAL_S": "1",
            "BENCH_KEY": "none",
        }

    def _broker(self) -> str:
        server = EmbeddedValkey(self.folder)
        self._exits.callback(server.stop)
        return server.start()

    def _pool(self) -> Path:
        models = [
            {
                "name": name,
                "endpoint": {"base_url": self.endpoint, "max_concurrency": 64},
                "price_usd_per_mtok": {"prompt": "0.1", "completion": "0.4"},
                "context_window_tokens": 8192,
                "max_completion_tokens": 128,
            }
            for name in MODELS
        ]
        path = self.folder / "pool.yaml"
        path.write_text(json.dumps({"models": models}))
        return path

    def start(self, *command: str | Path, log: str) -> "subprocess.Popen[str]":
        """Start a program that is stopped in the end."""
        stream = self._exits.enter_context((self.folder / log).open("w"))
        process = subprocess.Popen(
            [str(part) for part in command],
            env=self.environ,
            stdout=stream,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._exits.callback(process.wait)
        self._exits.callback(process.terminate)
        return process

    def server_pids(self, conn: "psycopg.Connection[tuple[object, ...]]") -> dict[str, list[int]]:
        """Return the processes of the servers by name; those of a database elsewhere are unknown.

        Args:
            conn: A connection to the database.
        """
        broker = int((server_folders(self.folder, "valkey").folder / "pid").read_text())
        database = database_pids(conn) if self._database_is_ours else []
        return {"postgres": database, "broker": [broker]} if database else {"broker": [broker]}

    def command(self, program: str, *arguments: str | Path) -> str:
        """Run a command to its end; return what it printed."""
        done = subprocess.run(
            [str(BIN / program), *map(str, arguments)],
            env=self.environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()


def wait_until(condition: Callable[[], Value], log: Path) -> Value:
    """Return what a condition returns once that is true; its program's log tells why it isn't."""
    ends_s = time.monotonic() + _PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > ends_s or "Traceback" in log.read_text():
            raise TimeoutError(log.read_text()[-3000:])
        time.sleep(0.05)
    return found


def memory_mb(pid: int, *, peak: bool = False, shared: bool = True) -> float:
    """Return what a process has in memory, or had at most, in MB; 0 once it has ended.

    Args:
        pid: The process.
        peak: Whether to return the most that it had.
        shared: Whether pages that it shares count in full, or by its share of them.
    """
    try:
        text = Path(f"/proc/{pid}/{'status' if shared else 'smaps_rollup'}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    name = "Pss" if not shared else "VmHWM" if peak else "VmRSS"
    found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    return 0.0 if found is None else int(found[1]) * 1024 / 1e6


def database_pids(conn: "psycopg.Connection[tuple[object, ...]]") -> list[int]:
    """Return the processes of a connection's server; none where it runs elsewhere."""
    backend = Path(f"/proc/{conn.info.backend_pid}/stat")
    if not backend.exists():
        return []
    return _with_children(int(backend.read_text().rpartition(")")[2].split()[1]))


def cpu_s(pid: int) -> float:
    """Return the seconds of CPU that a process has used, its threads included; 0 once it ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _with_children(pid: int) -> list[int]:
    """Return a process and those that it started itself."""
    found = [pid] if Path(f"/proc/{pid}").exists() else []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid:
            found.append(int(stat.parent.name))
    return found
