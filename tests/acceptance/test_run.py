"""One command from prompts to answers: starts what it needs, asks, goes on after anything."""

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from routoo.embedded.stack import is_stack_running
from tests.acceptance.batch import (
    answered,
    assert_one_result_each,
    assert_within_budget,
    write_jobs,
    write_pool,
)
from tests.acceptance.stack import BIN, LocalStack, until
from tests.fakes.openai_process import FakeServerProcess
from tests.services import short_folder

JOBS = 24
BUDGET_USD = "0.05"


class Runs:
    """`routoo-producer run` with one file and one pool, again and again."""

    def __init__(self, environ: Mapping[str, str], folder: Path, server: FakeServerProcess) -> None:
        self.environ, self.out = environ, folder / "answers.jsonl"
        self.rows = write_jobs(folder / "jobs.jsonl", JOBS)
        self.pool = write_pool(folder / "pool.yaml", server.base_url, concurrency=2)

    def command(self, *options: str) -> list[str | Path]:
        where = ("--pool", self.pool, "--out", self.out)
        return [BIN / "routoo-producer", "run", self.rows, *where, *options]

    def begin(self, *options: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.command(*options),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, *options: str) -> tuple[int, dict[str, Any], str]:
        """Run to the end; return exit status, the JSON that was printed, and the messages."""
        run = self.begin(*options, "--yes", "--json")
        output, messages = run.communicate(timeout=120)
        return run.returncode, json.loads(output or "{}"), messages

    def answers(self) -> list[str]:
        return [json.loads(line)["custom_id"] for line in self.out.read_text().splitlines()]


def batch_of(stack: LocalStack, name: str) -> str:
    found = stack.query("SELECT id::text FROM batches WHERE name = %s", name)
    assert len(found) == 1
    return str(found[0][0])


def stop_half_way(stack: LocalStack, run: "subprocess.Popen[str]", name: str, how: int) -> str:
    """Send a signal once some jobs are answered, and return the messages."""
    until(lambda: stack.answers() and _is_half_way(stack, name), "some are answered")
    run.send_signal(how)
    return run.communicate(timeout=60)[1]


def _is_half_way(stack: LocalStack, name: str) -> bool:
    try:
        found = stack.query("SELECT id::text FROM batches WHERE name = %s", name)
    except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return False  # the database is still made
    return bool(found) and answered(stack, found[0][0]) > 0


@pytest.mark.skipif(
    not os.environ.get("ROUTOO_CHAOS"), reason="starts two stacks of its own: set ROUTOO_CHAOS"
)
def test_a_run_starts_the_stack_survives_kills_and_leaves_nothing_running(
    checkpoint: Path, server: FakeServerProcess, tmp_path: Path
) -> None:
    with short_folder() as folder:
        stack = LocalStack(folder / "home", checkpoint)  # never started by the test
        runs = Runs(stack.environ, tmp_path, server)
        options = ("--budget-usd", BUDGET_USD)
        killed = runs.begin(*options, "--yes")
        stop_half_way(stack, killed, "jobs", signal.SIGKILL)
        assert killed.returncode == -signal.SIGKILL
        status, facts, _ = runs.end(*options)  # at once: the killed one's workers still stop
        assert (status, facts["status"], facts["answered"]) == (0, "completed", JOBS)
        assert runs.answers() == [f"job-{number}" for number in range(JOBS)]
        assert len(server.log()) == JOBS
        until(lambda: not is_stack_running(stack.home), "workers and servers have stopped")
        assert not stack.answers()

        runs.out.unlink()
        assert runs.end(*options)[:2] == (0, facts)  # over: no worker, no call
        assert len(runs.answers()) == len(server.log()) == JOBS
        assert not (stack.home / "worker.json").exists()
        status, _, messages = runs.end("--budget-usd", "0.06")
        assert status == 2
        assert "budget: $0.0500 then, $0.0600 now" in messages
        assert f"batch {facts['batch_id']}" in messages


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_keeps_its_batch_and_goes_on(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path, how: int
) -> None:
    runs, options = Runs(stack.environ, tmp_path, server), ("--name", f"stopped by {how}")
    options = (*options, "--budget-usd", BUDGET_USD)
    run = runs.begin(*options, "--yes")
    messages = stop_half_way(stack, run, options[1], how)
    batch_id = batch_of(stack, options[1])
    assert run.returncode == 130
    assert f"Batch {batch_id} is kept and goes on at its workers" in messages
    assert not runs.out.exists()
    status, facts, messages = runs.end(*options)
    assert (status, facts["batch_id"], facts["answered"]) == (0, batch_id, JOBS)
    assert f"goes on with batch {batch_id}" in messages
    assert "starting the stack" not in messages
    assert len(server.log()) == JOBS
    assert_one_result_each(stack, batch_id, JOBS)
    assert_within_budget(stack, server, batch_id, BUDGET_USD)


@contextmanager
def on_a_terminal(runs: Runs, *options: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Run on a terminal of its own; yields the process and the terminal's other end."""
    ours, theirs = pty.openpty()
    run = subprocess.Popen(
        runs.command(*options), env=runs.environ, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        yield run, ours
    finally:
        os.close(ours)


def read_until(terminal: int, word: str | None) -> str:
    """Return what a terminal shows up to a word, or to its end."""
    shown = b""
    while word is None or word.encode() not in shown:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            assert word is None, shown
            break
    return shown.decode()


def test_on_a_terminal_the_plan_is_shown_and_nothing_is_spent_without_a_yes(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    runs = Runs(stack.environ, tmp_path, server)
    options = ("--name", "asked", "--budget-usd", BUDGET_USD)
    with on_a_terminal(runs, *options) as (run, terminal):
        shown = read_until(terminal, "[y/N]")
        os.write(terminal, b"n\n")
        assert "nothing was spent" in read_until(terminal, None)
        assert run.wait(60) == 130
    assert "random mix" in shown
    assert server.log() == []
    with on_a_terminal(runs, *options) as (run, terminal):
        read_until(terminal, "[y/N]")
        os.write(terminal, b"y\n")
        shown = read_until(terminal, None)
        assert run.wait(60) == 0
    assert f"{JOBS} of {JOBS} answered" in shown
    assert "answers" in shown  # the table of the live display
    assert "share" in shown
    assert runs.answers() == [f"job-{number}" for number in range(JOBS)]


def test_the_exit_status_tells_downgraded_from_unanswered(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    refused = {"faults": [{"kind": "status", "status": 400}]}
    runs = Runs(stack.environ, tmp_path, server)
    server.set_script({"models": {"small": {}, "large": refused}})
    options = ("--budget-usd", BUDGET_USD, "--no-cascade")
    status, facts, _ = runs.end(*options, "--name", "downgraded")
    assert (status, facts["answered"]) == (7, JOBS)
    assert facts["downgraded"] > 0
    broken = {"faults": [{"kind": "status", "status": 400, "containing": "Question 7:"}]}
    server.set_script({"models": {"small": broken, "large": broken}})
    runs.out = tmp_path / "answers.csv"
    status, facts, _ = runs.end(*options, "--name", "unanswered")
    assert (status, facts["answered"], facts["results"]["failed"]) == (5, JOBS - 1, 1)
    assert len(runs.out.read_text().splitlines()) >= 1 + JOBS
