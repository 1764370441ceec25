"""A running batch, cancelled and paused by the real commands while real workers call models."""

import time
from pathlib import Path

from tests.acceptance.batch import (
    answered,
    assert_one_result_each,
    assert_within_budget,
    submit,
    wait_until_completed,
    write_jobs,
    write_pool,
)
from tests.acceptance.stack import LocalStack, until
from tests.fakes.openai_process import FakeServerProcess

JOBS = 200
MODELS = ("small", "large")
AMPLE_USD = "1"
LONGEST_STOP_S = 2.0


def begin(stack: LocalStack, server: FakeServerProcess, folder: Path, jobs: int = JOBS) -> str:
    """Submit a batch and wait until models answer."""
    pool = write_pool(folder / "pool.yaml", server.base_url, concurrency=4)
    rows = write_jobs(folder / "jobs.jsonl", jobs, words=1)
    batch_id = submit(stack, rows, pool, AMPLE_USD)
    until(lambda: answered(stack, batch_id) > 0, "some jobs are answered")
    return batch_id


def wait_until(stack: LocalStack, batch_id: str, status: str) -> None:
    sql = "SELECT status FROM batches WHERE id = %s"
    until(lambda: stack.query(sql, batch_id) == [(status,)], f"the batch is {status}")


def test_a_cancelled_batch_makes_its_last_call_within_two_seconds(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    batch_id = begin(stack, server, tmp_path)
    stack.command("routoo-producer", "cancel", "--no-wait", batch_id)
    asked_at = time.time()
    stack.command("routoo-producer", "cancel", batch_id)
    wait_until(stack, batch_id, "cancelled")
    last_call_at = max(row["started_at"] for row in server.log())
    assert last_call_at < asked_at + LONGEST_STOP_S
    found = assert_one_result_each(stack, batch_id, JOBS)
    statuses = [row["status"] for row in found]
    assert statuses.count("succeeded") == len(server.log())
    assert set(statuses) == {"succeeded", "cancelled"}
    assert_within_budget(stack, server, batch_id, AMPLE_USD)


def test_a_dispatcher_killed_while_its_batch_is_cancelled_leaves_no_job_open(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    batch_id = begin(stack, server, tmp_path)
    stack.command("routoo-producer", "cancel", "--no-wait", batch_id)
    stack.kill_child("dispatcher-1")
    wait_until(stack, batch_id, "cancelled")
    assert_one_result_each(stack, batch_id, JOBS)
    assert_within_budget(stack, server, batch_id, AMPLE_USD)


def test_a_paused_batch_makes_no_call_until_it_is_resumed(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    batch_id = begin(stack, server, tmp_path)
    stack.command("routoo-producer", "pause", batch_id)
    until(lambda: not in_work(stack, batch_id), "the shards are handed back")
    calls = len(server.log())
    time.sleep(1.5)  # a recovery tick passes
    assert len(server.log()) == calls < JOBS
    server.set_script({"models": {name: {"latency_s": 0.02} for name in MODELS}})
    stack.command("routoo-producer", "resume", batch_id)
    wait_until_completed(stack, batch_id)
    found = assert_one_result_each(stack, batch_id, JOBS)
    assert {row["status"] for row in found} == {"succeeded"}
    assert len(server.log()) == JOBS


def test_a_dispatcher_killed_while_a_retry_runs_costs_no_job_and_no_answer(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    broken = {"faults": [{"kind": "status", "status": 400, "containing": "Question 1"}]}
    server.set_script({"models": {name: {"latency_s": 0.1, **broken} for name in MODELS}})
    batch_id = begin(stack, server, tmp_path, JOBS // 2)
    wait_until_completed(stack, batch_id)
    statuses = [row["status"] for row in assert_one_result_each(stack, batch_id, JOBS // 2)]
    failed, paid_for = statuses.count("failed"), len(server.log())
    assert 0 < failed < JOBS // 2
    server.set_script({"models": {name: {"latency_s": 0.5} for name in MODELS}})
    stack.command("routoo-producer", "retry", "--failed-only", batch_id)
    until(lambda: len(server.log()) > paid_for, "a retried job is called")
    stack.kill_child("dispatcher-1")
    wait_until_completed(stack, batch_id)
    found = assert_one_result_each(stack, batch_id, JOBS // 2)
    assert {row["status"] for row in found} == {"succeeded"}
    kept = "SELECT count(*) FROM superseded_results WHERE batch_id = %s"
    assert stack.query(kept, batch_id) == [(failed,)]
    assert_within_budget(stack, server, batch_id, AMPLE_USD)


def in_work(stack: LocalStack, batch_id: str) -> bool:
    sql = "SELECT count(*) FROM shards WHERE batch_id = %s AND state = 'leased'"
    return bool(stack.query(sql, batch_id)[0][0])
