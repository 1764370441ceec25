"""Pause, resume, cancel and retry through the real command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PRODUCER = Path(sys.executable).with_name("routoo-producer")
MODEL = {
    "name": "small",
    "endpoint": {"base_url": "http://localhost:1/v1"},
    "price_usd_per_mtok": {"prompt": "1", "completion": "2"},
    "context_window_tokens": 4096,
}


class Producer:
    """Runs commands against a database that no worker looks at."""

    def __init__(self, database_url: str, folder: Path) -> None:
        (folder / "pool.yaml").write_text(json.dumps({"models": [MODEL]}))
        (folder / "monday.jsonl").write_text('{"prompt": "Who?"}\n{"prompt": "Why?"}\n')
        self._folder = folder
        self._environ = os.environ | {
            "ROUTOO_DATABASE_URL": database_url,
            "ROUTOO_BROKER_URL": "redis://127.0.0.1:1/0",
            "ROUTOO_HOME": str(folder),
            "ROUTOO_POOL": str(folder / "pool.yaml"),
        }

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [PRODUCER, *arguments],
            env=self._environ,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def facts(self, *arguments: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def refusal(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 2, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr


@pytest.fixture
def producer(database_url: str, tmp_path: Path) -> Producer:
    """Commands, and a batch of two jobs named monday."""
    found = Producer(database_url, tmp_path)
    assert found.run("submit", "monday.jsonl", "--budget-usd", "1").returncode == 0
    return found


def test_a_batch_is_paused_resumed_cancelled_and_tried_again(producer: Producer) -> None:
    assert producer.facts("pause", "monday")["status"] == "paused"
    assert "resume" in producer.refusal("retry", "monday")
    raised = producer.facts("resume", "monday", "--budget-usd", "2.5")
    assert (raised["status"], raised["budget_usd"]) == ("in_progress", 2.5)
    cancelled = producer.facts("cancel", "monday")
    assert cancelled["status"] == "cancelled"
    assert cancelled["results"]["cancelled"] == 2
    assert "nothing was cancelled" in producer.run("cancel", "monday").stderr
    assert "retry" in producer.refusal("resume", "monday")
    again = producer.facts("retry", "monday", "--status", "cancelled")
    assert (again["status"], again["answered"]) == ("in_progress", 0)


def test_bad_options_are_named_and_change_nothing(producer: Producer) -> None:
    assert "--budget-usd" in producer.refusal("resume", "monday", "--budget-usd", "much")
    assert "--status" in producer.refusal("retry", "monday", "--status", "succeeded")
    assert "exclude" in producer.refusal("retry", "monday", "--failed-only", "--status", "failed")
    assert producer.run("cancel", "tuesday").returncode == 3
    assert producer.facts("status", "monday")["status"] == "in_progress"
