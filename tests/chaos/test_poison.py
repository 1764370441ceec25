"""A job that kills every worker process that touches it fails alone; all others go on."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.stack import SECRET, ChaosStack
from tests.chaos.submission import KNOWN_MODELS, begin, end, model
from tests.fakes.openai_process import FakeServerProcess
from tests.services import short_folder

JOBS, POISON = 30, 17
_PATIENCE_S = 300.0
_SETTINGS = {
    "ROUTOO_LEASE_S": "2",
    "ROUTOO_RECOVERY_INTERVAL_S": "1",
    "ROUTOO_SHARD_SIZE": "10",
    "ROUTOO_MAX_SHARD_ATTEMPTS": "3",
    "CHAOS_SCORING": "guess",
}


pytestmark = pytest.mark.skipif(
    not os.environ.get("ROUTOO_CHAOS"), reason="kills processes for minutes: set ROUTOO_CHAOS"
)


@contextmanager
def workers(stage: str) -> Iterator[tuple[ChaosStack, FakeServerProcess]]:
    """Run worker processes that one prompt ends in a stage."""
    script = {"models": {"small": {"latency_s": 0.05, "api_key": SECRET}}}
    settings = {**_SETTINGS, "CHAOS_POISON": f"{stage} poison"}
    with short_folder() as folder, FakeServerProcess(script) as server:
        stack = ChaosStack(folder / "home", settings=settings)
        try:
            stack.start()
            for name in ("scorer-1", "dispatcher-1", "beat"):
                stack.spawn(name, name.partition("-")[0])
            yield stack, server
        finally:
            stack.stop()


def submit(stack: ChaosStack, server: FakeServerProcess) -> str:
    prompts = [f"poison {no}" if no == POISON else f"What is {no}?" for no in range(JOBS)]
    models = [model(server.base_url, name, concurrency=4) for name in KNOWN_MODELS]
    return end(begin(stack, prompts, models, budget_usd="1"))[0]


@pytest.mark.timeout(600)  # a dozen processes die and start again
@pytest.mark.parametrize("stage", ["score", "dispatch"])
def test_a_job_that_kills_its_worker_fails_with_its_cause_and_all_others_succeed(
    stage: str,
) -> None:
    with workers(stage) as (stack, server):
        batch_id, started_s = submit(stack, server), time.monotonic()
        while stack.query("SELECT status FROM batches WHERE id = %s", batch_id) != [("completed",)]:
            assert time.monotonic() < started_s + _PATIENCE_S, stack.query("SELECT * FROM shards")
            stack.revive()
            time.sleep(0.1)
        found = stack.query(
            "SELECT job_no, status, error_code, error_message FROM results WHERE batch_id = %s"
            " AND status <> 'succeeded'",
            batch_id,
        )
        books = "SELECT reserved_usd, spent_usd <= limit_usd FROM ledgers WHERE batch_id = %s"
        assert stack.query(books, batch_id) == [(0, True)]
        log = stack.logs()[f"{'scorer' if stage == 'score' else 'dispatcher'}-1"]
        deaths = log.count("worker.ready") - 1
        took_s = time.monotonic() - started_s
        print(f"{stage}: {deaths} processes died, {took_s:.0f} s, {found}")
    ((job_no, status, code, message),) = found
    assert (job_no, status, code) == (POISON, "failed", "worker_died")
    assert "workers died one after the other" in message
    assert deaths >= 1
