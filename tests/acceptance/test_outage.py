"""An endpoint that is down for long holds up its own jobs and nobody else's."""

import json
from pathlib import Path

from tests.acceptance.batch import (
    answered,
    assert_one_result_each,
    submit,
    wait_until_completed,
    write_pool,
)
from tests.acceptance.stack import LocalStack, until
from tests.fakes.openai_process import FakeServerProcess

JOBS = 60
"""Six shards: more than a dispatcher works on at once."""


def write_pinned(path: Path, model: str, count: int) -> Path:
    """Write jobs that only one model may answer."""
    rows = [
        {"custom_id": f"job-{number}", "prompt": f"Question {number}?", "model": model}
        for number in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_a_batch_whose_endpoint_is_down_keeps_no_dispatcher_from_another(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    down = {"faults": [{"kind": "status", "status": 503}]}
    server.set_script({"models": {"small": down, "large": {}}})
    pool = write_pool(tmp_path / "pool.yaml", server.base_url)
    stuck = submit(stack, write_pinned(tmp_path / "stuck.jsonl", "small", JOBS), pool, "1")
    until(lambda: len(server.log()) > 10, "the endpoint is found to be down")
    other = submit(stack, write_pinned(tmp_path / "other.jsonl", "large", 20), pool, "1")
    wait_until_completed(stack, other)
    assert_one_result_each(stack, other, 20)
    assert answered(stack, stuck) == 0
    server.set_script({"models": {"small": {}, "large": {}}})
    wait_until_completed(stack, stuck)
    found = assert_one_result_each(stack, stuck, JOBS)
    assert {row["status"] for row in found} == {"succeeded"}
