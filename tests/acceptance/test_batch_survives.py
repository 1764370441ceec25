"""A batch from submission to results, with every process killed on the way."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance.batch import (
    answered,
    assert_one_result_each,
    assert_within_budget,
    scored,
    submit,
    wait_until_completed,
    write_jobs,
    write_pool,
)
from tests.acceptance.stack import BIN, LocalStack, until
from tests.fakes.openai_process import FakeServerProcess

JOBS = 120
AMPLE_USD = "1"


def begin(
    stack: LocalStack,
    server: FakeServerProcess,
    folder: Path,
    budget_usd: str = AMPLE_USD,
    words: int = 1,
) -> str:
    """Submit a batch whose jobs take seconds to answer, and to score where they are wordy."""
    pool = write_pool(folder / "pool.yaml", server.base_url)
    rows = write_jobs(folder / "jobs.jsonl", JOBS, words)
    return submit(stack, rows, pool, budget_usd)


@contextmanager
def slow_answers(server: FakeServerProcess) -> Iterator[None]:
    """Let answers take so long that a batch isn't over before the block ends, on any machine."""
    set_latency(server, 1.5)
    yield
    set_latency(server, 0.1)


def set_latency(server: FakeServerProcess, latency_s: float) -> None:
    server.set_script({"models": {name: {"latency_s": latency_s} for name in ("small", "large")}})


def test_a_batch_is_answered_within_its_budget(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    budget_usd = "0.02"
    batch_id = begin(stack, server, tmp_path, budget_usd, words=12)
    stack.command("routoo-producer", "watch", batch_id)
    wait_until_completed(stack, batch_id)
    found = assert_one_result_each(stack, batch_id, JOBS)
    assert {row["status"] for row in found} == {"succeeded"}
    assert all(row["answer"].startswith(row["model"]) for row in found)
    assert_within_budget(stack, server, batch_id, budget_usd)


def test_workers_killed_in_the_middle_cost_no_job(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    with slow_answers(server):
        batch_id = begin(stack, server, tmp_path, words=60)
        until(lambda: scored(stack, batch_id) > 0, "some jobs are scored")
        assert scored(stack, batch_id) < JOBS
        stack.kill_child("scorer-1")
        until(lambda: answered(stack, batch_id) > 0, "some jobs are answered")
        assert answered(stack, batch_id) < JOBS
        stack.kill_child("dispatcher-1")
    wait_until_completed(stack, batch_id)
    assert_one_result_each(stack, batch_id, JOBS)
    assert_within_budget(stack, server, batch_id, AMPLE_USD)


def test_servers_killed_in_the_middle_are_started_again_and_cost_no_job(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    with slow_answers(server):
        batch_id = begin(stack, server, tmp_path)
        until(lambda: answered(stack, batch_id) > 0, "some jobs are answered")
        assert answered(stack, batch_id) < JOBS
        stack.kill_servers()
    until(stack.answers, "the database is back")
    wait_until_completed(stack, batch_id)
    assert_one_result_each(stack, batch_id, JOBS)
    assert_within_budget(stack, server, batch_id, AMPLE_USD)


def test_a_second_stack_on_the_same_home_says_so_and_leaves(stack: LocalStack) -> None:
    second = subprocess.run(
        [BIN / "routoo-worker", "up"],
        env=stack.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 4
    assert "another `routoo-worker up` runs" in second.stderr
    assert stack.is_ready()


def test_a_stack_stopped_in_the_middle_goes_on_when_started_again(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    with slow_answers(server):
        batch_id = begin(stack, server, tmp_path)
        until(lambda: answered(stack, batch_id) > 0, "some jobs are answered")
        assert answered(stack, batch_id) < JOBS
        assert stack.terminate() == 0
    assert not stack.status()
    stack.start()
    wait_until_completed(stack, batch_id)
    found = assert_one_result_each(stack, batch_id, JOBS)
    assert {row["status"] for row in found} == {"succeeded"}
    assert_within_budget(stack, server, batch_id, AMPLE_USD)


def test_a_stack_killed_outright_in_the_middle_goes_on_when_started_again(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    with slow_answers(server):
        batch_id = begin(stack, server, tmp_path)
        until(lambda: answered(stack, batch_id) > 0, "some jobs are answered")
        assert answered(stack, batch_id) < JOBS
        stack.kill_everything()
    stack.start()
    wait_until_completed(stack, batch_id)
    assert_one_result_each(stack, batch_id, JOBS)
    assert_within_budget(stack, server, batch_id, AMPLE_USD)
