"""The real programs on a home of their own, and ways to be cruel to them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from routoo.embedded.postgres import EmbeddedPostgres
from routoo.settings import REPOSITORY
from tests.warm_commands import warm_command

WORKER = "tests.acceptance.worker"
"""The real one, but for the predictor that scorers begin with."""
BIN = Path(sys.executable).parent
PATIENCE_S = 240.0
"""Longest wait of a test for what must come about, on a machine that others use too."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


def run_command(
    program: str,
    *arguments: str | Path,
    environ: Mapping[str, str],
    statuses: Sequence[int] = (0,),
) -> str:
    """Run a command of ours to its end and return what it printed."""
    words = list(map(str, arguments))
    done = warm_command(program, words).run(words, environ=environ, timeout_s=PATIENCE_S)
    assert done.returncode in statuses, (done.returncode, done.stdout, done.stderr)
    return done.stdout.strip()


class LocalStack:
    """`routoo-worker up` on its own home, with leases and ticks short enough for a test.

    Args:
        home: An empty folder, or one that an earlier stack left.
        checkpoint: What the scorers load.
    """

    def __init__(self, home: Path, checkpoint: Path) -> None:
        self.home = home
        self.environ = os.environ | {
            "ROUTOO_HOME": str(home),
            "ROUTOO_CHECKPOINT": str(checkpoint),
            "ROUTOO_LEASE_S": "3",
            "ROUTOO_RECOVERY_INTERVAL_S": "1",
            "ROUTOO_REPLAN_INTERVAL_S": "2",
            "ROUTOO_CHANNEL_POLL_S": "0.5",
            "ROUTOO_CHANNEL_TIMEOUT_S": "2",
            "ROUTOO_SHARD_SIZE": "10",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),  # where the stand-in for `routoo-worker` is
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._asking: psycopg.Connection[tuple[Any, ...]] | None = None

    @property
    def log(self) -> str:
        """What the supervisor and its children said."""
        return (self.home / "up.log").read_text()

    def start(self) -> None:
        """Start the stack and wait until it serves."""
        self.home.mkdir(exist_ok=True)
        with (self.home / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER, "up", "--json-logs"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environ,
                start_new_session=True,
            )
        try:
            until(self._serves_or_failed, "the stack is ready")
        except TimeoutError:
            self.terminate()
            raise AssertionError(self.log) from None
        assert self._process.poll() is None, self.log

    def _serves_or_failed(self) -> bool:
        return (self._process is not None and self._process.poll() is not None) or self.is_ready()

    def is_ready(self) -> bool:
        """Tell whether every worker of this stack, not of one killed before, consumes messages."""
        status = self.status()
        ours = self._process is not None and status.get("supervisor") == self._process.pid
        return ours and bool(status["ready"])

    def status(self) -> dict[str, Any]:
        """Return what the supervisor says of its processes; empty while none runs."""
        try:
            found: dict[str, Any] = json.loads((self.home / "worker.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def terminate(self) -> int:
        """Stop the stack as an operator would, and return its exit status."""
        assert self._process is not None
        self._hang_up()
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    def kill_child(self, name: str) -> None:
        """End one worker with SIGKILL."""
        os.kill(self.status()["children"][name], signal.SIGKILL)

    def kill_everything(self) -> None:
        """End the supervisor, its workers, PostgreSQL and Valkey with SIGKILL, all at once."""
        assert self._process is not None
        self._hang_up()
        status = self.status()
        victims = [status["supervisor"], *status["children"].values(), *self._servers()]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        self._process.wait(60)
        until(lambda: not any(_is_alive(pid) for pid in victims), "the killed are gone")

    def kill_servers(self) -> None:
        """End PostgreSQL and Valkey with SIGKILL under the workers' feet."""
        victims = list(self._servers())
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        until(lambda: not any(_is_alive(pid) for pid in victims), "the killed are gone")

    def _servers(self) -> Iterator[int]:
        for file in ("postgres/data/postmaster.pid", "valkey/pid"):
            yield int((self.home / file).read_text().split()[0])

    def command(self, program: str, *arguments: str | Path, statuses: Sequence[int] = (0,)) -> str:
        """Run a command of ours to its end and return what it printed."""
        return run_command(program, *arguments, environ=self.environ, statuses=statuses)

    def begin(self, program: str, *arguments: str | Path) -> "subprocess.Popen[bytes]":
        """Start a command of ours that a test will kill; its standard input is a pipe."""
        return subprocess.Popen(
            [BIN / program, *arguments],
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database, as users of the public tables do.

        The connection is kept: tests ask twenty times a second until something has come about.
        """
        try:
            return self._ask(sql, values)
        except psycopg.OperationalError:  # the server was killed or stopped since
            self._hang_up()
            return self._ask(sql, values)

    def _ask(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        if self._asking is None:
            self._asking = psycopg.connect(EmbeddedPostgres(self.home).url, autocommit=True)
        return self._asking.execute(sql.encode(), values).fetchall()

    def _hang_up(self) -> None:
        if self._asking is not None:
            self._asking.close()
            self._asking = None

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Let nobody write to a table while the block runs."""
        with self._connected() as conn, conn.transaction():
            conn.execute(f"LOCK TABLE {table} IN SHARE MODE".encode())
            yield

    def until_held_up(self, statement: str) -> None:
        """Wait until a statement that begins so waits for a lock."""
        waits = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND starts_with(ltrim(query, E' \\n'), %s)"
        )
        until(lambda: self.query(waits, statement)[0][0] > 0, f"{statement} waits")

    def wait_for_run(self, run_id: str) -> None:
        """Wait until the workers have graded an evaluation run."""
        sql = "SELECT state FROM eval_runs WHERE id = %s"
        until(lambda: self.query(sql, run_id) == [("finished",)], "the run is graded")

    def answers(self) -> bool:
        """Tell whether the database is there."""
        return EmbeddedPostgres(self.home).is_running()

    @contextmanager
    def _connected(self) -> Iterator["psycopg.Connection[tuple[Any, ...]]"]:
        url = EmbeddedPostgres(self.home).url
        with psycopg.connect(url, autocommit=True) as conn:
            yield conn


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
