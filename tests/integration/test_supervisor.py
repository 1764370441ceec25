"""The supervisor keeps its processes running, whatever they are."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from routoo.embedded.stack import status_path
from routoo.errors import ConfigError, EmbeddedStackError
from worker.supervisor import Supervisor

Commands = dict[str, list[str]]
READY_THEN_SLEEP = "import time; print('ready', flush=True); time.sleep(60)"
WORKER = """
from worker.supervisor import stop_with_supervisor, say_ready
stop_with_supervisor(); say_ready()
import signal; signal.pause()
"""


def commands(**programs: str) -> Commands:
    return {name: [sys.executable, "-c", program] for name, program in programs.items()}


def status(home: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(status_path(home).read_text())
    return found


def pid_of(home: Path, name: str) -> int:
    children = status(home)["children"]
    assert isinstance(children, dict)
    return int(children.get(name, 0))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.02)


def supervise(
    home: Path, processes: Commands, scenario: Callable[[], Awaitable[None]] | None = None
) -> bool:
    """Run a supervisor through a scenario, then stop it; return whether it got ready."""

    async def main() -> bool:
        ready = asyncio.Event()
        running = asyncio.create_task(
            Supervisor(home, processes, os.environ, on_ready=ready.set).run()
        )
        if scenario is not None:
            await ready.wait()
            await scenario()
            os.kill(os.getpid(), signal.SIGTERM)
        await running
        return ready.is_set()

    return asyncio.run(main())


def test_it_is_ready_when_every_worker_said_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        assert status(tmp_path)["ready"] is True
        assert status(tmp_path)["supervisor"] == os.getpid()

    assert supervise(tmp_path, commands(a=READY_THEN_SLEEP, b=READY_THEN_SLEEP), scenario)
    assert not status_path(tmp_path).exists()


def test_a_worker_that_dies_is_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        first = pid_of(tmp_path, "a")
        os.kill(first, signal.SIGKILL)
        await until(lambda: pid_of(tmp_path, "a") not in {0, first})
        await until(lambda: status(tmp_path)["ready"] is True)

    supervise(tmp_path, commands(a=READY_THEN_SLEEP), scenario)


def test_a_worker_that_is_unusable_from_the_start_ends_the_supervisor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a can't start"):
        supervise(tmp_path, commands(a="raise SystemExit(2)", b=READY_THEN_SLEEP))


def test_a_worker_that_never_gets_ready_ends_the_supervisor(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedStackError, match="a died 3 times before it was ready"):
        supervise(tmp_path, commands(a="raise SystemExit(1)", b=READY_THEN_SLEEP))


def test_a_worker_stops_when_its_supervisor_is_killed() -> None:
    command = [sys.executable, "-c", WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout is not None
        assert orphan.stdin is not None
        assert orphan.stdout.readline() == b"ready\n"
        orphan.stdin.close()  # what the kernel does for a supervisor that is gone
        assert orphan.wait(10) == -signal.SIGTERM
