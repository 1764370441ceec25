"""Commands and a re-plan killed half-way: nothing is lost or doubled, all can be done again."""

import json
import subprocess
from pathlib import Path

from tests.acceptance.batch import (
    assert_one_result_each,
    assert_within_budget,
    make_cheap,
    submit,
    wait_until_completed,
    wait_until_streamed,
    write_jobs,
    write_pool,
)
from tests.acceptance.stack import LocalStack, until
from tests.fakes.openai_process import FakeServerProcess

JOBS = 30
BUDGET_USD = "0.02"


def keyed(server: FakeServerProcess, folder: Path, key: str) -> tuple[str | Path, ...]:
    """Return the options of a submission that may be repeated."""
    pool = write_pool(folder / "pool.yaml", server.base_url)
    return ("--pool", pool, "--budget-usd", BUDGET_USD, "--idempotency-key", key)


def kill(command: "subprocess.Popen[bytes]") -> None:
    """End a command with SIGKILL, and see that it had not ended by itself."""
    command.kill()
    assert command.wait(30) == -9
    assert command.stdin is not None
    command.stdin.close()


def batches_of(stack: LocalStack, key: str) -> list[tuple[str, str]]:
    return stack.query("SELECT id::text, status FROM batches WHERE idempotency_key = %s", key)


def assert_run_once(stack: LocalStack, server: FakeServerProcess, key: str, batch_id: str) -> None:
    """Check that the batch is the key's only one, and that each job was called once."""
    wait_until_completed(stack, batch_id)
    assert batches_of(stack, key) == [(batch_id, "completed")]
    found = assert_one_result_each(stack, batch_id, JOBS)
    assert {row["status"] for row in found} == {"succeeded"}
    assert len(server.log()) == JOBS
    assert_within_budget(stack, server, batch_id, BUDGET_USD)


def test_a_submission_killed_while_it_copies_leaves_nothing_and_can_be_repeated(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    key = "copied half-way"
    options = keyed(server, tmp_path, key)
    command = stack.begin("routoo-producer", "submit", "-", *options)
    rows = write_jobs(tmp_path / "many.jsonl", 10_000).read_bytes()
    assert command.stdin is not None
    command.stdin.write(rows)
    command.stdin.flush()  # the pipe stays open: more seems to come
    copied = "SELECT count(*) FROM pg_stat_progress_copy WHERE tuples_processed > 0"
    until(lambda: stack.query(copied)[0][0] > 0, "some rows are copied")
    kill(command)
    assert batches_of(stack, key) == []
    jobs = write_jobs(tmp_path / "jobs.jsonl", JOBS)
    batch_id = stack.command("routoo-producer", "submit", jobs, *options)
    assert_run_once(stack, server, key, batch_id)


def test_a_submission_killed_once_it_is_committed_is_found_by_its_key(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    key = "killed after the commit"
    command = (
        "submit",
        write_jobs(tmp_path / "jobs.jsonl", JOBS),
        *keyed(server, tmp_path, key),
    )
    with stack.locked("predictions"):
        begun = stack.begin("routoo-producer", *command, "--watch")
        until(lambda: bool(batches_of(stack, key)), "the batch is committed")
        kill(begun)  # workers may not have been told of it: the recovery tick tells them
    batch_id = stack.command("routoo-producer", *command)
    assert_run_once(stack, server, key, batch_id)


def test_a_plan_killed_while_it_is_made_goes_on_and_is_shown_by_the_same_command(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    key = "planned half-way"
    command = (
        "plan",
        write_jobs(tmp_path / "jobs.jsonl", JOBS),
        *keyed(server, tmp_path, key),
    )
    with stack.locked("predictions"):
        begun = stack.begin("routoo-producer", *command)
        stack.until_held_up("INSERT INTO predictions")
        kill(begun)
    shown = json.loads(stack.command("routoo-producer", *command, "--json"))
    assert shown["plan"]["served"] == JOBS
    assert batches_of(stack, key) == [(shown["plan_id"], "planned")]
    batch_id = stack.command("routoo-producer", "submit", "--plan", shown["plan_id"])
    assert_run_once(stack, server, key, batch_id)


def test_a_plan_whose_submission_is_killed_half_way_stays_a_plan_until_it_is_submitted_again(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    key = "handed out half-way"
    jobs = write_jobs(tmp_path / "jobs.jsonl", JOBS)
    plan = stack.command("routoo-producer", "plan", jobs, *keyed(server, tmp_path, key), "--json")
    plan_id = json.loads(plan)["plan_id"]
    with stack.locked("shards"):
        begun = stack.begin("routoo-producer", "submit", "--plan", plan_id)
        stack.until_held_up("UPDATE shards SET state = 'ready'")
        kill(begun)
    again = stack.command("routoo-producer", "submit", "--plan", plan_id)
    assert again == plan_id
    assert_run_once(stack, server, key, plan_id)


def test_a_dispatcher_killed_while_it_plans_anew_leaves_the_revision_to_the_next(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    make_cheap(server)
    jobs, pool = 80, write_pool(tmp_path / "pool.yaml", server.base_url, concurrency=2)
    batch_id = submit(stack, write_jobs(tmp_path / "jobs.jsonl", jobs), pool, "0.03")
    planned = "SELECT count(*) FROM assignments WHERE batch_id = %s"
    until(lambda: stack.query(planned, batch_id) == [(jobs,)], "the first plan is made")
    with stack.locked("assignments"):
        stack.until_held_up("INSERT INTO assignments")
        decided = "SELECT revision, decided_at IS NULL FROM replans WHERE batch_id = %s"
        assert stack.query(decided, batch_id) == [(2, True)]
        stack.kill_child("dispatcher-1")
    wait_until_completed(stack, batch_id)
    assert_one_result_each(stack, batch_id, jobs)
    assert_within_budget(stack, server, batch_id, "0.03")
    revisions = stack.query(
        "SELECT revision, decided_at IS NOT NULL FROM replans WHERE batch_id = %s ORDER BY 1",
        batch_id,
    )
    assert revisions == [(number, True) for number in range(2, len(revisions) + 2)]
    twice = (
        "SELECT job_no FROM attempts WHERE batch_id = %s AND status = 'succeeded'"
        " GROUP BY job_no HAVING count(*) > 1"
    )
    assert stack.query(twice, batch_id) == []


def test_a_stream_killed_between_its_groups_takes_each_line_once(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    rows = write_jobs(tmp_path / "inbox.jsonl", JOBS)
    pool = ("--pool", write_pool(tmp_path / "pool.yaml", server.base_url))
    budget = ("--budget-usd-per-hour", "0.05", "--name", "killed")
    command = ("stream", rows, *budget, *pool, "--group-rows", "10")
    groups = """
        SELECT count(*) FROM stream_batches b JOIN streams s ON s.id = b.stream_id
        WHERE s.name = 'killed'
    """
    with stack.locked("predictions"):  # no group is planned, so the next one waits
        begun = stack.begin("routoo-producer", *command)
        until(lambda: stack.query(groups) == [(1,)], "a group is sent")
        kill(begun)
    stack.command("routoo-producer", *command)
    assert stack.query(groups) == [(3,)]
    wait_until_streamed(stack, "killed", JOBS)
    assert len(server.log()) == JOBS
