"""Runs our commands in processes forked from one that has imported them: a start costs little.

Each command has a process of its own, with its own arguments, environment, folder, standard
streams and exit status. What is not tested here is the import itself: commands that are started
as a shell starts them are many elsewhere, and `tests/unit/test_producer_cli.py` looks at imports.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent
PRODUCER = BIN / "routoo-producer"
ROUTOO = BIN / "routoo"
WORKER = BIN / "routoo-worker"
_ENTRIES = {
    PRODUCER.name: "producer.cli",
    ROUTOO.name: "routoo.cli.main",
    WORKER.name: "worker.cli",
}
_ROOMS = {
    PRODUCER.name: ("producer",),
    ROUTOO.name: ("routoo.cli", "routoo.client", "routoo.console", "routoo.domain", "routoo.store"),
}
"""What is imported before the first command comes: no PyTorch, which most commands don't need."""
_TRAINING_ROOMS = (
    *_ROOMS[ROUTOO.name],
    *("routoo.predictor", "routoo.judge", "routoo.training", "worker.doctor"),
    "transformers.models.bert.modeling_bert",  # the backbone's: two seconds
)
_TRAINING_COMMANDS = {"train", "onboard", "add-model"}
"""Those of `routoo` that need PyTorch."""
_NOT_PRELOADED = ("producer.gateway", "producer.page", "producer.commands.serve")
"""The gateway is started as a shell starts it."""


class WarmCommand:
    """A process that has imported what a program needs, and forks itself for each run of it.

    Args:
        program: The program's file.
        rooms: The packages and modules that it imports before the first run.
    """

    def __init__(self, program: Path, rooms: Sequence[str]) -> None:
        self._program, self._rooms = program, rooms
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def run(
        self,
        arguments: Sequence[str],
        *,
        environ: Mapping[str, str],
        cwd: Path | None = None,
        stdin: str = "",
        timeout_s: float | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run the command to its end, whatever its exit status.

        Raises:
            TimeoutExpired: It took longer than it may; it was killed.
        """
        if not self._lock.acquire(blocking=False):  # another thread's command still runs
            return _run_cold([self._program, *arguments], environ, cwd, stdin, timeout_s)
        try:
            with tempfile.TemporaryDirectory(prefix="routoo-run-") as folder:
                return self._run(Path(folder), arguments, environ, cwd, stdin, timeout_s)
        finally:
            self._lock.release()

    def _run(
        self,
        folder: Path,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        cwd: Path | None,
        stdin: str,
        timeout_s: float | None,
    ) -> "subprocess.CompletedProcess[str]":
        files = [folder / name for name in ("stdin", "stdout", "stderr")]
        files[0].write_text(stdin)
        told = {
            "program": self._program.name,
            "arguments": list(arguments),
            "environ": dict(environ),
            "cwd": str(cwd or Path.cwd()),
            "files": list(map(str, files)),
        }
        status = self._ask(json.dumps(told).encode(), timeout_s)
        if status is None:
            raise subprocess.TimeoutExpired([self._program, *arguments], timeout_s or 0)
        output, messages = (path.read_text() for path in files[1:])
        return subprocess.CompletedProcess(list(arguments), status, output, messages)

    def run_for_shell(self, told: bytes) -> int:
        """Run a command that `_SHIM` asks for on its streams, and return the exit status."""
        with self._lock:
            status = self._ask(told, None)
        assert status is not None
        return status

    def _ask(self, told: bytes, timeout_s: float | None) -> int | None:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(told + b"\n")
        process.stdin.flush()
        pid = int(process.stdout.readline())
        in_time, _, _ = select.select([process.stdout], [], [], timeout_s)
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        status = int(process.stdout.readline())
        return status if in_time else None

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm_commands", *self._rooms],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            atexit.register(self._process.communicate)  # it ends with its input
        return self._process


def _run_cold(
    command: Sequence[str | Path],
    environ: Mapping[str, str],
    cwd: Path | None,
    stdin: str,
    timeout_s: float | None,
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        env=environ,
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


warm_producer = WarmCommand(PRODUCER, _ROOMS[PRODUCER.name])
warm_routoo = WarmCommand(ROUTOO, _ROOMS[ROUTOO.name])
_warm_training = WarmCommand(ROUTOO, _TRAINING_ROOMS)
"""Of this test process; they start with the first command."""


def warm_command(program: str, arguments: Sequence[str]) -> WarmCommand:
    """Return the process that has imported what a command needs."""
    if program == PRODUCER.name:
        return warm_producer
    return warm_routoo if _TRAINING_COMMANDS.isdisjoint(arguments[:2]) else _warm_training


_SHIM = """#!{python} -SI
import json, os, socket, sys
told = {{
    "program": {program!r},
    "arguments": sys.argv[1:],
    "environ": dict(os.environ),
    "cwd": os.getcwd(),
    "files": [f"/proc/{{os.getpid()}}/fd/{{number}}" for number in range(3)],
}}
with socket.socket(socket.AF_UNIX) as warm:
    warm.connect({address!r})
    warm.sendall(json.dumps(told).encode() + b"\\n")
    status = int(warm.makefile().read())
sys.exit(status if status >= 0 else 128 - status)
"""
"""A program that lets a warm process run a command on its own standard streams."""


class _ShellHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        line = self.rfile.readline().rstrip()
        told = json.loads(line)
        program, arguments = told["program"], told["arguments"]
        is_worker = program == WORKER.name  # `routoo-worker doctor` looks at the backbone
        warm = _warm_training if is_worker else warm_command(program, arguments)
        status = warm.run_for_shell(line)
        self.wfile.write(str(status).encode())


@contextmanager
def warm_programs() -> Iterator[Path]:
    """Yield a folder for a shell's PATH; what its programs are asked for runs in warm processes."""
    with tempfile.TemporaryDirectory(prefix="routoo-bin-") as name:
        folder = Path(name)
        address = str(folder / "socket")
        for program in _ENTRIES:
            shim = folder / program
            shim.write_text(_SHIM.format(python=sys.executable, program=program, address=address))
            shim.chmod(0o700)
        with socketserver.ThreadingUnixStreamServer(address, _ShellHandler) as server:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            yield folder
            server.shutdown()


def _preload(rooms: Sequence[str]) -> None:
    for room in rooms:
        path = getattr(importlib.import_module(room), "__path__", ())
        for module in pkgutil.walk_packages(path, f"{room}."):
            if not module.name.startswith(_NOT_PRELOADED):
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def _serve() -> Callable[[], None]:
    """Fork for each line of standard input; return the entry point in the forked processes."""
    for line in sys.stdin.buffer:
        pid = os.fork()
        if pid == 0:
            return _become(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


def _become(told: "dict[str, object]") -> Callable[[], None]:
    environ, arguments, files = told["environ"], told["arguments"], told["files"]
    assert isinstance(environ, dict)
    assert isinstance(arguments, list)
    assert isinstance(files, list)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(str(told["cwd"]))
    flags = (os.O_RDONLY, *[os.O_WRONLY | os.O_CREAT | os.O_TRUNC] * 2)
    for number, (path, flag) in enumerate(zip(files, flags, strict=True)):
        opened = os.open(path, flag, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - not what the parent has buffered
    program = str(told["program"])
    sys.argv = [str(BIN / program), *arguments]
    entry: Callable[[], None] = importlib.import_module(_ENTRIES[program]).main
    return entry


if __name__ == "__main__":
    _preload(sys.argv[1:])
    start = _serve()
    start()
