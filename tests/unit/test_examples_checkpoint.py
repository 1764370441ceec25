"""How the example's checkpoint is rebuilt, and what the committed outcomes hold."""

from pathlib import Path

import pytest

from examples import build_checkpoint
from routoo.domain.tables import read_items
from routoo.errors import InputError


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, ...]]:
    """Record the routoo commands instead of running them; work in a temporary folder."""
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(build_checkpoint, "_routoo", lambda *arguments: ran.append(arguments))
    monkeypatch.setattr(build_checkpoint, "WORK", tmp_path)
    return ran


def no_data(_arguments: list[str]) -> None:
    """Stand for a machine without the folder of routing data."""
    raise InputError("no such table")


def test_every_job_of_the_batch_becomes_an_item_with_reference_and_grader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build_checkpoint, "WORK", tmp_path)
    items = read_items(build_checkpoint._batch_items())
    assert len(items) >= 200
    assert all(item.prompt and item.answer and item.grader for item in items)


def test_without_the_routing_data_the_own_questions_are_trained_on(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.shared_items.main", no_data)
    build_checkpoint.main(["--train-only"])
    (train,) = commands
    assert train[0] == "train"
    tables = [
        Path(argument).name for argument in train if argument.endswith((".jsonl", ".parquet"))
    ]
    assert tables == ["training_questions.jsonl", "training.parquet"]


def test_the_batch_is_never_trained_on(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.shared_items.main", lambda _arguments: None)
    build_checkpoint.main(["--train-only"])
    assert not any("batch" in Path(argument).name for argument in commands[0])
    assert any(Path(argument).name == "shared.parquet" for argument in commands[0])
