"""A plan shows what the money will buy, and runs as it was shown, once."""

import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.acceptance.batch import (
    assert_one_result_each,
    assert_within_budget,
    wait_until_completed,
    write_jobs,
    write_pool,
)
from tests.acceptance.stack import LocalStack
from tests.fakes.openai_process import FakeServerProcess

JOBS = 60
BUDGET_USD = "0.02"


def test_a_plan_costs_nothing_and_then_runs_as_it_was_shown(
    stack: LocalStack, server: FakeServerProcess, tmp_path: Path
) -> None:
    pool = write_pool(tmp_path / "pool.yaml", server.base_url)
    rows = write_jobs(tmp_path / "jobs.jsonl", JOBS)
    picture = tmp_path / "plan.png"
    shown = json.loads(
        stack.command(
            *("routoo-producer", "plan", rows, "--pool", pool, "--budget-usd", BUDGET_USD),
            *("--plot", picture, "--json"),
        )
    )
    plan, forecast = shown["plan"], shown["plan"]["forecast"]
    assert (shown["status"], plan["served"]) == ("planned", JOBS)
    assert plan["expected_cost_usd"] <= forecast["worst_case_usd"] <= float(BUDGET_USD)
    low, high = forecast["quality_interval"]
    assert low < plan["expected_quality"] < high
    frontier = forecast["frontier"]
    assert [point["cost_usd"] for point in frontier] == sorted(p["cost_usd"] for p in frontier)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert server.log() == []

    half_usd = str(plan["expected_cost_usd"] / 2)
    options = ("--from", shown["plan_id"], "--budget-usd", half_usd, "--json")
    other = json.loads(stack.command("routoo-producer", "plan", *options))
    assert other["plan_id"] != shown["plan_id"]
    assert other["plan"]["expected_cost_usd"] <= float(half_usd)
    assert server.log() == []

    again = stack.command("routoo-producer", "plan", "--show", shown["plan_id"])
    assert f"submit --plan {shown['plan_id']}" in again
    batch_id = stack.command("routoo-producer", "submit", "--plan", shown["plan_id"]).strip()
    assert batch_id == shown["plan_id"]
    wait_until_completed(stack, batch_id)
    found = assert_one_result_each(stack, batch_id, JOBS)
    assert {row["status"] for row in found} == {"succeeded"}
    assert_within_budget(stack, server, batch_id, BUDGET_USD)

    chosen = stack.query(
        "SELECT model, sum(expected_cost_usd), count(*) FROM assignments"
        " WHERE batch_id = %s GROUP BY model",
        batch_id,
    )
    planned = {model["model"]: model["jobs"] for model in plan["models"] if model["jobs"]}
    assert {model: count for model, _, count in chosen} == planned
    expected_usd = sum((cost for _, cost, _ in chosen), Decimal(0))
    assert float(expected_usd) == pytest.approx(plan["expected_cost_usd"], rel=1e-6)
    told = json.loads(stack.command("routoo-producer", "explain", batch_id, "job-7", "--json"))
    standing = {one["model"]: one["standing"] for one in told["candidates"]}
    assert standing[told["calls"][0]["model"]] == "chosen"
    assert told["result"]["status"] == "succeeded"
    asked = [row["model"] for row in server.log()]
    assert {model: asked.count(model) for model in planned} == planned
    stack.command("routoo-producer", "submit", "--plan", batch_id)
    assert len(server.log()) == JOBS
