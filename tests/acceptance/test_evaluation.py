"""Evaluation through the real programs: sets, runs, replayed outcomes."""

import json
import random
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from producer.commands.evaluation import ALERTED
from routoo.domain.completion import RecordedAnswer
from routoo.domain.tables import Outcomes, write_outcomes
from routoo.evaluation.answer_log import write_answers
from tests.acceptance.batch import PRICES_USD_PER_MTOK, write_pool
from tests.acceptance.stack import BIN, LocalStack

ITEMS = 30


def write_set(folder: Path) -> Path:
    """Write items, and what both models once scored on them."""
    rng = random.Random(1)
    names = list(PRICES_USD_PER_MTOK)
    pairs = [(f"item-{number}", name) for number in range(ITEMS) for name in names]
    rows = [
        {"item_id": f"item-{n}", "prompt": f"Prove number {n}, please", "subject": f"s{n % 3}"}
        for n in range(ITEMS)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_outcomes(
        folder / "outcomes.parquet",
        Outcomes(
            item_ids=[item for item, _ in pairs],
            models=[name for _, name in pairs],
            score=np.array([rng.choice((0.0, 0.25, 1.0)) for _ in pairs], np.float32),
            prompt_tokens=np.full(len(pairs), 11, np.float32),
            completion_tokens=np.full(len(pairs), 7, np.float32),
            cost_usd=np.full(len(pairs), 1e-5),
            latency_s=np.full(len(pairs), 2.0, np.float32),
        ),
    )
    said = [RecordedAnswer(item, name, f"{name} said so of {item}.") for item, name in pairs]
    write_answers(folder / "answers.parquet", said)
    return folder / "outcomes.parquet"


def test_a_recorded_run_grades_every_answer_as_recorded_and_costs_its_tokens(
    stack: LocalStack, tmp_path: Path
) -> None:
    outcomes = write_set(tmp_path)
    pool = write_pool(tmp_path / "pool.yaml", "http://127.0.0.1:1/v1")
    items = ("--items", tmp_path / "items.jsonl", "--no-references")
    stack.command("routoo-producer", "evalset", "add", "replayed", *items)
    shown = stack.command(
        *("routoo-producer", "eval", "run", "replayed", "--json", "--pool", pool),
        *("--recorded", outcomes, "--latency-scale", "0.01", "--full", "--sample", "5"),
        *("--answers", tmp_path / "answers.parquet"),
        # Other tests' batches on this stack may be far from its tiny training set.
        statuses=(0, ALERTED),
    )
    found = json.loads(shown)
    assert (found["state"], found["error"]) == ("finished", None)
    assert {alert["kind"] for alert in found["alerts"]} <= {"novelty"}
    assert (found["figures"]["ungraded"], found["figures"]["sampled"]) == (0, 5)
    table = pq.read_table(outcomes).to_pylist()
    recorded = {(row["item_id"], row["model"]): row["score"] for row in table}
    rows = stack.query(
        "SELECT custom_id, model, quality, cost_usd, answer FROM batch_results WHERE batch_id = %s",
        found["batch_id"],
    )
    assert len(rows) == ITEMS
    assert {(row[0], row[1]): row[2] for row in rows}.items() <= recorded.items()
    for item, model, _, cost_usd, answer in rows:
        assert answer == f"{model} said so of {item}."
        assert cost_usd == PRICES_USD_PER_MTOK[model] * 18 / 1_000_000
    page = tmp_path / "report.html"
    report = stack.command(
        *("routoo-producer", "eval", "report", found["run_id"], "--json", "--html", page)
    )
    measured = json.loads(report)["operating"]
    assert measured["quality"]["value"] == pytest.approx(np.mean([row[2] for row in rows]))
    assert measured["cost_ratio"]["value"] > 0
    assert "Quality for money" in page.read_text()


def test_a_set_with_bad_rows_is_refused_with_all_of_them(stack: LocalStack, tmp_path: Path) -> None:
    lines = ('{"prompt": "Is it?", "answer": "yes"}', "{", '{"prompt": " ", "answer": "x"}')
    (tmp_path / "set.jsonl").write_text("\n".join((*lines, '{"prompt": "Why?"}')))
    command = [BIN / "routoo-producer", "evalset", "add", "bad", "--items", "set.jsonl"]
    done = subprocess.run(
        command, cwd=tmp_path, env=stack.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    for said in ("set.jsonl:2: the line", "set.jsonl:3: the prompt is empty", "set.jsonl:4: the"):
        assert said in done.stderr
    assert "3 rows have problems: nothing was added" in done.stderr
