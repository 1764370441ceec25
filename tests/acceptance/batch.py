"""Batches of synthetic jobs, and what must hold of every one of them in the end."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.acceptance.stack import LocalStack, until
from tests.fakes.openai_process import FakeServerProcess

PRICES_USD_PER_MTOK = {"small": Decimal(1), "large": Decimal(10)}


def write_pool(path: Path, base_url: str, *, concurrency: int = 8) -> Path:
    """Write a pool of the two fake models."""
    models = [
        {
            "name": name,
            "endpoint": {"base_url": base_url, "max_concurrency": concurrency, "timeout_s": 20},
            "price_usd_per_mtok": {"prompt": str(price), "completion": str(price)},
            "context_window_tokens": 4096,
            "max_completion_tokens": 20,
        }
        for name, price in PRICES_USD_PER_MTOK.items()
    ]
    path.write_text(json.dumps({"models": models}))  # JSON is YAML
    return path


def write_jobs(path: Path, count: int, words: int = 12) -> Path:
    """Write a batch file; a longer prompt takes longer to score."""
    rows = [
        {"custom_id": f"job-{number}", "prompt": f"Question {number}: " + "why is that so " * words}
        for number in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def make_cheap(server: FakeServerProcess) -> None:
    """Let answers take fewer tokens than a plan expects, so that a batch is planned anew."""
    usage = {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22}
    script = {"latency_s": 0.3, "patch": {"usage": usage}}
    server.set_script({"models": dict.fromkeys(PRICES_USD_PER_MTOK, script)})


def submit(stack: LocalStack, jobs: Path, pool: Path, budget_usd: str) -> str:
    """Submit a file through the command line and return the batch's id."""
    arguments = (jobs, "--pool", pool, "--budget-usd", budget_usd)
    return stack.command("routoo-producer", "submit", *arguments)


def scored(stack: LocalStack, batch_id: str) -> int:
    """Return how many jobs have predictions."""
    found = stack.query("SELECT count(*) FROM predictions WHERE batch_id = %s", batch_id)
    return int(found[0][0])


def answered(stack: LocalStack, batch_id: str) -> int:
    """Return how many jobs have results."""
    found = stack.query("SELECT count(*) FROM results WHERE batch_id = %s", batch_id)
    return int(found[0][0])


def wait_until_streamed(stack: LocalStack, name: str, count: int) -> None:
    """Wait until a stream has that many answers; other tests' streams are on the same stack."""
    sql = """
        SELECT count(*) FROM results JOIN stream_batches b USING (batch_id)
        JOIN streams s ON s.id = b.stream_id WHERE s.name = %s AND status = 'succeeded'
    """
    until(lambda: stack.query(sql, name) == [(count,)], "every line is answered")


def wait_until_completed(stack: LocalStack, batch_id: str) -> None:
    """Wait for the batch to end, and see that it ended well."""
    sql = "SELECT status, error FROM batches WHERE id = %s"
    until(lambda: stack.query(sql, batch_id)[0][0] != "in_progress", "the batch ends")
    assert stack.query(sql, batch_id) == [("completed", None)]


def results(stack: LocalStack, batch_id: str) -> list[dict[str, Any]]:
    """Return the rows of the public view, in its order."""
    columns = "custom_id, status, model, answer, cost_usd"
    rows = stack.query(f"SELECT {columns} FROM batch_results WHERE batch_id = %s", batch_id)
    return [dict(zip(columns.split(", "), row, strict=True)) for row in rows]


def assert_one_result_each(stack: LocalStack, batch_id: str, count: int) -> list[dict[str, Any]]:
    """Check that each job, in input order, ended exactly once; return the results."""
    found = results(stack, batch_id)
    assert [row["custom_id"] for row in found] == [f"job-{number}" for number in range(count)]
    return found


def assert_within_budget(
    stack: LocalStack, server: FakeServerProcess, batch_id: str, budget_usd: str
) -> None:
    """Check the budget against our ledger and against the endpoint's own books."""
    limit, spent, reserved, overrun = stack.query(
        "SELECT limit_usd, spent_usd, reserved_usd, overrun_usd FROM ledgers WHERE batch_id = %s",
        batch_id,
    )[0]
    assert limit == Decimal(budget_usd)
    assert (reserved, overrun) == (0, 0)
    billed = billed_usd(server)
    assert billed <= spent <= limit


def billed_usd(server: FakeServerProcess) -> Decimal:
    """Return what the endpoint would charge for all it did."""
    return sum(
        (
            PRICES_USD_PER_MTOK[row["model"]] * (row["prompt_tokens"] + row["completion_tokens"])
            for row in server.log()
        ),
        Decimal(0),
    ) / Decimal(1_000_000)
