"""Jobs through a provider's batch API, with the worker killed while it hands them over."""

import json
from decimal import Decimal
from pathlib import Path

from tests.acceptance.batch import (
    PRICES_USD_PER_MTOK,
    assert_one_result_each,
    billed_usd,
    submit,
    wait_until_completed,
    write_pool,
)
from tests.acceptance.stack import LocalStack, until
from tests.fakes.openai_process import FakeServerProcess

PATIENT, HASTY = 36, 12
AMPLE_USD = "1"
PRICED = ("prompt", "completion")


def write_channel_pool(path: Path, base_url: str) -> Path:
    """Write the pool of the two fake models, the dear one with a batch channel at half price."""
    pool = json.loads(write_pool(path, base_url).read_text())
    half = str(PRICES_USD_PER_MTOK["large"] / 2)
    pool["models"][1]["batch_channel"] = {"price_usd_per_mtok": dict.fromkeys(PRICED, half)}
    path.write_text(json.dumps(pool))
    return path


def write_mixed_jobs(path: Path) -> Path:
    """Write jobs of which some can wait for ever and some can't."""
    rows = [
        {"custom_id": f"job-{number}", "prompt": f"Prove number {number}, please"}
        | ({} if number < PATIENT else {"max_latency_s": 60})
        for number in range(PATIENT + HASTY)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def channel_usd(server: FakeServerProcess) -> Decimal:
    """Return what the provider charges for its batches."""
    tokens = sum(batch["billed_tokens"] for batch in server.batch_log()["batches"])
    return PRICES_USD_PER_MTOK["large"] / 2 * tokens / 1_000_000


def test_a_worker_killed_while_it_creates_batches_sends_no_row_twice(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    models = {"models": {"small": {}, "large": {}}}
    # Every creation takes place, and none is answered in time: only the marker tells.
    server.set_script(models | {"batches": {"create_delay_s": 30.0, "latency_s": 0.5}})
    pool = write_channel_pool(tmp_path / "pool.yaml", server.base_url)
    batch_id = submit(stack, write_mixed_jobs(tmp_path / "jobs.jsonl"), pool, AMPLE_USD)
    until(lambda: bool(server.batch_log()["batches"]), "a batch is created")
    assert stack.query("SELECT count(*) FROM provider_batches WHERE state <> 'prepared'") == [(0,)]
    stack.kill_child("dispatcher-1")
    wait_until_completed(stack, batch_id)
    found = assert_one_result_each(stack, batch_id, PATIENT + HASTY)
    assert {row["status"] for row in found} == {"succeeded"}
    channels = [row["model"].endswith("@batch") for row in found]
    assert all(channels[:PATIENT])
    assert not any(channels[PATIENT:])
    assert sum(batch["rows"] for batch in server.batch_log()["batches"]) == PATIENT
    reserved, spent = stack.query(
        "SELECT reserved_usd, spent_usd FROM ledgers WHERE batch_id = %s", batch_id
    )[0]
    assert reserved == 0
    assert billed_usd(server) + channel_usd(server) == spent
