"""`routoo onboard` as its users run it: one command, a budget, a kill in between; or no call."""

import json
import os
import random
import signal
import subprocess
import time
from decimal import Decimal
from pathlib import Path

import pytest

from routoo.domain.items import Item
from routoo.store import checkpoints
from routoo.store.database import Database
from routoo.store.evaluation.eval_sets import Purpose
from tests.acceptance.stack import BIN
from tests.fakes.openai_process import FakeServerProcess
from tests.run_factory import graded
from tests.warm_commands import warm_command

TABLE = {"small": 0.3, "large": 3.0}


def write_inputs(folder: Path, base_url: str) -> None:
    models = [
        {
            "name": name,
            "endpoint": {"base_url": base_url, "max_concurrency": 2},
            "price_usd_per_mtok": {"prompt": price, "completion": price},
            "context_window_tokens": 4096,
            "max_completion_tokens": 16,
            "prior": {"parameters_b": 3 if name == "small" else 70},
        }
        for name, price in TABLE.items()
    ]
    (folder / "pool.yaml").write_text(json.dumps({"models": models}), encoding="utf-8")
    drawn = random.Random(0)
    items = []
    for number in range(30):
        one, other = drawn.randrange(10, 90), drawn.randrange(10, 90)
        prompt = f"What is {one} + {other}? Question {number}."
        subject = "sums" if number % 2 else "letters"
        items.append({"prompt": prompt, "answer": str(one + other), "subject": subject})
    lines = "".join(json.dumps({"item_id": str(n), **one}) + "\n" for n, one in enumerate(items))
    (folder / "items.jsonl").write_text(lines, encoding="utf-8")
    right = {one["prompt"]: f"It is {one['answer']}." for one in items}
    few = dict(list(right.items())[::3])
    script = {
        "small": {"answers": few, "answer": "It is 1.", "latency_s": 0.05},
        "large": {"answers": right, "answer": "It is 1.", "latency_s": 0.05},
    }
    (folder / "script.json").write_text(json.dumps({"models": script}), encoding="utf-8")


ONBOARD = ["onboard", "--pool", "pool.yaml", "--work", "work", "--json"]
ASKING = [*ONBOARD, "--items", "items.jsonl", "--budget-usd", "1"]


def onboard(
    words: list[str], folder: Path, environ: dict[str, str]
) -> "subprocess.CompletedProcess[str]":
    done = warm_command("routoo", words).run(words, cwd=folder, environ=environ)
    assert done.returncode == 0, done.stderr
    return done


def environment(database_url: str, home: Path) -> dict[str, str]:
    named = {"ROUTOO_DATABASE_URL": database_url, "ROUTOO_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return os.environ | named


def test_a_killed_onboarding_goes_on_within_its_budget_and_ends_in_use(
    database_url: str, tmp_path: Path
) -> None:
    with FakeServerProcess({"models": {"*": {}}}) as server:
        write_inputs(tmp_path, server.base_url)
        server.set_script(json.loads((tmp_path / "script.json").read_text()))
        named = environment(database_url, tmp_path / "home")
        first = subprocess.Popen(
            [BIN / "routoo", *ASKING], cwd=tmp_path, env=named, stderr=subprocess.PIPE
        )
        while len(server.log()) < 10:
            assert first.poll() is None, first.stderr.read() if first.stderr else ""
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        done = onboard(ASKING, tmp_path, named)
        calls = server.log()
    report = json.loads(done.stdout)
    # Only what was in flight is asked again, and it counts as spent at its worst.
    assert 60 <= len(calls) <= 64
    assert "spent by earlier runs" in done.stderr
    assert [one["answers"] for one in report["models"]] == [30, 30]
    small, large = report["models"]
    assert small["score"] < 0.5 < large["score"]
    assert report["brier"]["general"] < report["brier"]["prior"]
    assert report["in_use"]
    assert report["has_subjects"]
    single = report["routed"]["single"]
    assert set(single["models"]) <= {"small", "large"}
    assert 0 < single["quality"] <= report["routed"]["mix"] + 1e-6
    assert set(small["by_difficulty"]) == {"easy", "middle", "hard"}
    spent = [json.loads(one) for one in (tmp_path / "work/spending.jsonl").read_text().splitlines()]
    spent_usd = sum(Decimal(row["usd"]) for row in {row["call"]: row for row in spent}.values())
    assert spent_usd < 1
    assert report["spent_usd"] == float(spent_usd)


@pytest.mark.anyio
async def test_answers_that_runs_graded_teach_a_pool_without_a_call(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    write_inputs(tmp_path, "http://127.0.0.1:1/v1")
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    items = [Item(**json.loads(line)) for line in lines]
    await graded(db, "practice", Purpose.TRAINING, items)
    await graded(db, "exam", Purpose.EVALUATION, items[:3])
    named = environment(database_url, tmp_path / "home")
    done = onboard([*ONBOARD, "--from-runs"], tmp_path, named)
    report = json.loads(done.stdout)
    assert "3 evaluation items are kept out" in done.stderr
    assert (report["items"], report["made_of"], report["spent_usd"]) == (27, "general", 0)
    scores = {one["model"]: (one["answers"], one["score"]) for one in report["models"]}
    assert scores == {"small": (27, 0), "large": (27, 1)}
    assert report["brier"]["general"] < report["brier"]["prior"]
    async with db.transaction() as conn:
        used = await checkpoints.promoted(conn)
    assert report["in_use"]
    assert used is not None
    assert (used.weights_sha256, used.path) == (report["weights_sha256"], report["checkpoint"])
