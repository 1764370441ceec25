"""`routoo onboard` as its users run it: one command, a budget, and a kill in between."""

import json
import os
import random
import signal
import subprocess
import time
from decimal import Decimal
from pathlib import Path

from tests.acceptance.stack import BIN
from tests.fakes.openai_process import FakeServerProcess

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


def command(budget_usd: str) -> list[str]:
    names = ["--pool", "pool.yaml", "--items", "items.jsonl", "--work", "work", "--json"]
    return [str(BIN / "routoo"), "onboard", *names, "--budget-usd", budget_usd]


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
        first = subprocess.Popen(command("1"), cwd=tmp_path, env=named, stderr=subprocess.PIPE)
        while len(server.log()) < 10:
            assert first.poll() is None, first.stderr.read() if first.stderr else ""
            time.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        done = subprocess.run(
            command("1"), cwd=tmp_path, env=named, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
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
    assert set(small["by_difficulty"]) == {"easy", "middle", "hard"}
    spent = [json.loads(one) for one in (tmp_path / "work/spending.jsonl").read_text().splitlines()]
    spent_usd = sum(Decimal(row["usd"]) for row in {row["call"]: row for row in spent}.values())
    assert spent_usd < 1
    assert report["spent_usd"] == float(spent_usd)
