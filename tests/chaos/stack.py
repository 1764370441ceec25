"""Real worker processes on servers of their own, and what may happen to them."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.valkey import EmbeddedValkey
from routoo.store.administration import upgrade
from tests.chaos.relay import Relay

SECRET = "sk-planted-secret-of-the-endpoint"  # noqa: S105 - it is to be found nowhere
_CLOCK = Path(__file__).with_name("clock.c")
_DISK_BYTES = 600 * 2**20


@dataclass(slots=True)
class WorkerProcess:
    """A role's process, and its successors."""

    name: str
    role: str
    process: "subprocess.Popen[bytes]"
    log: Path
    log_from: int
    """Where in the log this process began."""
    is_stopped: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it has begun to consume messages, and still lives."""
        said = self.log.read_bytes()[self.log_from :]
        return self.process.poll() is None and b"worker.ready" in said


@dataclass(slots=True)
class ChaosStack:
    """PostgreSQL, a broker and workers, all of them to be killed at will.

    Args:
        home: An empty folder.
        broker_url: A broker that runs already, whose connections are cut; None starts a Valkey,
            which is killed.
        settings: More `ROUTOO_*` variables; the defaults hold otherwise.
        on_small_disk: PostgreSQL's data is on a file system that can be filled.
    """

    home: Path
    broker_url: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    on_small_disk: bool = False
    workers: dict[str, WorkerProcess] = field(default_factory=dict)
    postgres: EmbeddedPostgres = field(init=False)
    valkey: EmbeddedValkey | None = field(init=False)
    relay: Relay | None = field(init=False)
    kills: int = 0
    given_up: list[str] = field(default_factory=list)
    """Processes that ended though nobody killed them."""

    def start(self) -> None:
        """Start the servers and bring the schema up to date."""
        self.home.mkdir(exist_ok=True)
        self.home.chmod(0o755)
        if self.on_small_disk:
            size = f"size={_DISK_BYTES}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", self.home], check=True)
            self.home.chmod(0o755)
        self.postgres = EmbeddedPostgres(self.home)
        database_url = self.postgres.start()
        upgrade(database_url)
        self.relay = self.valkey = None
        if self.broker_url is None:
            self.valkey = EmbeddedValkey(self.home)
            broker_url = self.valkey.start()
        else:
            parts = urlsplit(self.broker_url)
            self.relay = Relay(parts.hostname or "localhost", parts.port or 5672)
            login = parts.netloc.rpartition("@")[0]
            here = f"127.0.0.1:{self.relay.start()}"
            broker_url = parts._replace(netloc=f"{login}@{here}" if login else here).geturl()
        self.environ = {
            **os.environ,
            "ROUTOO_HOME": str(self.home),
            "ROUTOO_DATABASE_URL": database_url,
            "ROUTOO_BROKER_URL": broker_url,
            "CHAOS_KEY": SECRET,
            "OMP_NUM_THREADS": "1",
            **self.settings,
        }

    environ: dict[str, str] = field(default_factory=dict)

    def stop(self) -> None:
        """End every process."""
        for worker in self.workers.values():
            self.resume(worker)
            worker.process.terminate()
        for worker in self.workers.values():
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(30)
            worker.process.kill()
            worker.process.wait()
        self.postgres.stop()
        if self.valkey is not None:
            self.valkey.stop()
        if self.relay is not None:
            self.relay.stop()
        if self.on_small_disk:
            subprocess.run(["umount", "--lazy", self.home], check=True)

    # Workers

    def spawn(self, name: str, role: str, **more: str) -> None:
        """Start a worker process; its log goes on where that of its predecessor ended."""
        path = self.home / f"{name}.log"
        with path.open("ab") as log:
            begins = path.stat().st_size
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.worker", role],
                stdout=log, stderr=subprocess.STDOUT,
                env=self.environ | self._clock_variables(name) | more,
                start_new_session=True,
            )  # fmt: skip
        self.workers[name] = WorkerProcess(name, role, process, path, begins)

    def revive(self) -> None:
        """Start the workers again that are gone, as a supervisor does."""
        for worker in list(self.workers.values()):
            status = worker.process.poll()
            if status is not None:
                if status != -signal.SIGKILL:
                    said = worker.log.read_text(errors="replace")[-1_500:]
                    self.given_up.append(
                        f"{worker.name} ended by itself with status {status}: {said}"
                    )
                self.spawn(worker.name, worker.role)

    def kill(self, names: Sequence[str]) -> None:
        """End workers with SIGKILL, all at once."""
        for name in names:
            self.workers[name].process.kill()
        self.kills += len(names)

    def suspend(self, worker: WorkerProcess) -> None:
        """Stop a process as it stands; `resume` lets it go on."""
        worker.is_stopped = True
        with suppress(ProcessLookupError):
            worker.process.send_signal(signal.SIGSTOP)

    def resume(self, worker: WorkerProcess) -> None:
        """Let a stopped process go on."""
        if worker.is_stopped:
            with suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGCONT)
        worker.is_stopped = False

    # Servers

    def halt_postgres(self) -> None:
        """End PostgreSQL at once, as its immediate mode does."""
        pid_file = self.home / "postgres/data/postmaster.pid"
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
        while self.postgres.is_running():
            time.sleep(0.05)

    def halt_broker(self) -> None:
        """End the broker, or cut every connection to it and refuse new ones."""
        if self.relay is not None:
            self.relay.cut()
        elif self.valkey is not None:
            os.kill(int((self.home / "valkey/pid").read_text().split()[0]), signal.SIGKILL)

    def mend(self) -> None:
        """Let the servers run again, and everything that was stopped."""
        self.free_disk()
        self.postgres.start()
        if self.valkey is not None:
            self.valkey.start()
        if self.relay is not None:
            self.relay.mend()
        for worker in self.workers.values():
            self.resume(worker)
        for clock in self.home.glob("*.clock"):
            self.jump_clock(clock.stem, 0)

    def fill_disk(self) -> None:
        """Leave no room where PostgreSQL writes."""
        room = shutil.disk_usage(self.home).free
        with suppress(OSError), (self.home / "ballast").open("wb") as ballast:
            for _ in range(room // 2**20 + 1):
                ballast.write(bytes(2**20))

    def free_disk(self) -> None:
        """Make room again."""
        (self.home / "ballast").unlink(missing_ok=True)

    @property
    def can_jump_clocks(self) -> bool:
        """Whether there is a compiler for what moves the workers' clocks."""
        return shutil.which("cc") is not None

    def jump_clock(self, name: str, ahead_s: int) -> None:
        """Set a worker's wall clock while it runs, as of now and for its successors."""
        clock = self._clock(name)
        clock.touch()
        with clock.open("r+b") as file:  # in place: a process that reads it never finds it empty
            file.write(struct.pack("q", ahead_s))

    def _clock(self, name: str) -> Path:
        return self.home / f"{name}.clock"

    def _clock_variables(self, name: str) -> dict[str, str]:
        """Return what lets a worker's clock be set."""
        if not self.can_jump_clocks:
            return {}
        library = self.home / "clock.so"
        if not library.exists():
            subprocess.run(["cc", "-shared", "-fPIC", "-o", library, _CLOCK, "-ldl"], check=True)
        if not self._clock(name).exists():
            self.jump_clock(name, 0)
        return {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._clock(name))}

    # What can be seen

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with psycopg.connect(self.environ["ROUTOO_DATABASE_URL"], autocommit=True) as conn:
            return conn.execute(sql.encode(), values).fetchall()

    def logs(self) -> dict[str, str]:
        """Return what each worker and its predecessors wrote."""
        return {path.stem: path.read_text(errors="replace") for path in self.home.glob("*.log")}
