"""Pause, resume, cancel, retry and delete through the real command."""

from pathlib import Path

import pytest

from tests.producer_command import ProducerCommand


@pytest.fixture
def producer(database_url: str, tmp_path: Path) -> ProducerCommand:
    """Commands, and a batch of two jobs named monday."""
    (tmp_path / "monday.jsonl").write_text('{"prompt": "Who?"}\n{"prompt": "Why?"}\n')
    found = ProducerCommand(database_url, tmp_path)
    assert found.run("submit", "monday.jsonl", "--budget-usd", "1").returncode == 0
    return found


def test_a_batch_is_paused_resumed_cancelled_and_tried_again(producer: ProducerCommand) -> None:
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


def test_a_batch_is_deleted_once_it_is_over_and_somebody_means_it(
    producer: ProducerCommand,
) -> None:
    assert "cancel" in producer.refusal("delete", "monday", "--yes")
    producer.facts("cancel", "monday")
    assert producer.run("delete", "monday").returncode == 1
    assert producer.facts("status", "monday")["status"] == "cancelled"
    assert producer.facts("delete", "monday", "--yes")["deleted"] is True
    assert producer.run("status", "monday").returncode == 3


def test_bad_options_are_named_and_change_nothing(producer: ProducerCommand) -> None:
    assert "--budget-usd" in producer.refusal("resume", "monday", "--budget-usd", "much")
    assert "--status" in producer.refusal("retry", "monday", "--status", "succeeded")
    assert "exclude" in producer.refusal("retry", "monday", "--failed-only", "--status", "failed")
    assert producer.run("cancel", "tuesday").returncode == 3
    assert producer.facts("status", "monday")["status"] == "in_progress"
