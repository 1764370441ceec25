"""A stream and a re-plan through the real commands and workers."""

import json
from decimal import Decimal
from pathlib import Path

from tests.acceptance.batch import (
    assert_one_result_each,
    assert_within_budget,
    billed_usd,
    make_cheap,
    submit,
    wait_until_completed,
    wait_until_streamed,
    write_jobs,
    write_pool,
)
from tests.acceptance.stack import LocalStack
from tests.fakes.openai_process import FakeServerProcess


def test_a_stream_answers_a_file_once_within_the_hours_budget(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    jobs = write_jobs(tmp_path / "inbox.jsonl", 24)
    budget = ("--budget-usd-per-hour", "0.05", "--name", "once")
    pool = ("--pool", write_pool(tmp_path / "pool.yaml", server.base_url))
    command = ("routoo-producer", "stream", jobs, *budget, *pool, "--group-rows", "10", "--json")
    told = [json.loads(line) for line in stack.command(*command).splitlines()]
    assert sum(group["job_count"] for group in told) == 24
    assert stack.command(*command) == ""
    wait_until_streamed(stack, "once", 24)
    assert len(server.log()) == 24
    assert billed_usd(server) <= Decimal("0.05")


def test_a_batch_that_costs_less_than_planned_is_planned_anew_while_it_runs(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    make_cheap(server)
    pool = write_pool(tmp_path / "pool.yaml", server.base_url, concurrency=2)
    batch_id = submit(stack, write_jobs(tmp_path / "jobs.jsonl", 70), pool, "0.02")
    wait_until_completed(stack, batch_id)
    assert_one_result_each(stack, batch_id, 70)
    assert_within_budget(stack, server, batch_id, "0.02")
    assert len(server.log()) == 70
    status = json.loads(stack.command("routoo-producer", "status", batch_id, "--json"))
    assert status["replans"]
    assert all("against the plan" in replan["reason"] for replan in status["replans"])
    assert all(replan["decided_at"] is not None for replan in status["replans"])
    assert "plan 2: " in stack.command("routoo-producer", "status", batch_id)
