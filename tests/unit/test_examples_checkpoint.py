"""How the example's checkpoint is rebuilt, and what the committed outcomes hold."""

from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from examples import build_checkpoint
from examples.local_models.catalogue import MODELS
from routoo.domain.tables import read_answers, read_items, read_outcomes
from routoo.errors import InputError
from routoo.evaluation.item_grading import grade_item
from routoo.judge.files import load_judge

COLUMNS = [
    "item_id", "model", "score", "prompt_tokens", "completion_tokens", "cost_usd", "latency_s",
]  # fmt: skip


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
    assert tables == ["training_questions.jsonl", "training.parquet", "training_answers.parquet"]


def test_the_batch_is_never_trained_on(
    commands: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("examples.shared_items.main", lambda _arguments: None)
    build_checkpoint.main(["--train-only"])
    assert not any("batch" in Path(argument).name for argument in commands[0])
    assert any(Path(argument).name == "shared.parquet" for argument in commands[0])


def ids(name: str, key: str) -> set[str]:
    """Return the ids in one of the example's JSONL files."""
    lines = (build_checkpoint.EXAMPLES / name).read_bytes().splitlines()
    return {orjson.loads(line)[key] for line in lines}


@pytest.mark.parametrize(
    ("table", "asked", "complete"),
    [
        ("batch.parquet", ids("batch.jsonl", "custom_id"), len(MODELS)),
        ("training.parquet", ids("training_questions.jsonl", "item_id"), 1),
    ],
)
def test_the_committed_outcomes_hold_every_question_once_a_model_at_most(
    table: str, asked: set[str], complete: int
) -> None:
    rows = pq.read_table(build_checkpoint.OUTCOMES / table).to_pylist()
    found = [(row["item_id"], row["model"]) for row in rows]
    assert set(found) <= {(item, model.name) for item in asked for model in MODELS}
    assert set(found) >= {(item, model.name) for item in asked for model in MODELS[:complete]}
    assert len(found) == len(set(found))


@pytest.mark.parametrize("table", ["batch", "training", "shared"])
def test_the_committed_outcomes_hold_no_text(table: str) -> None:
    assert pq.read_schema(build_checkpoint.OUTCOMES / f"{table}.parquet").names == COLUMNS


@pytest.mark.parametrize("name", ["batch", "training"])
def test_the_committed_answers_are_those_that_the_outcomes_grade(name: str) -> None:
    questions = {
        "batch": build_checkpoint._batch_items,
        "training": lambda: build_checkpoint.EXAMPLES / "training_questions.jsonl",
    }
    items = {item.item_id: item for item in read_items(questions[name]())}
    outcomes = read_outcomes(build_checkpoint.OUTCOMES / f"{name}.parquet")
    score = dict(
        zip(zip(outcomes.item_ids, outcomes.models, strict=True), outcomes.score, strict=True)
    )
    answers = read_answers(build_checkpoint.OUTCOMES / f"{name}_answers.parquet")
    assert sum(answer.model == MODELS[0].name for answer in answers) == len(items)
    assert all(answer.token_probabilities for answer in answers if answer.text)
    graded = [
        (grade_item(items[one.item_id], one.text).score, score.get((one.item_id, one.model)))
        for one in answers
    ]
    same = [new == old for new, old in graded]
    assert np.mean(same) > 0.99  # an answer in two hundred depends on what else a server answers


def test_answers_to_the_shared_questions_stay_out() -> None:
    assert not list(build_checkpoint.OUTCOMES.glob("shared_*"))


def test_the_committed_checkpoint_judges_the_cheap_models_answers_and_stays_small() -> None:
    folder = build_checkpoint.EXAMPLES / "checkpoint"
    judge = load_judge(folder)
    assert {model.name for model in MODELS[:2]} <= set(judge.probes)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6_000_000


def test_the_strongest_model_answers_far_more_of_the_batch_than_the_others() -> None:
    rows = pq.read_table(build_checkpoint.OUTCOMES / "batch.parquet").to_pylist()
    right = {model.name: 0.0 for model in MODELS}
    for row in rows:
        right[row["model"]] += row["score"] or 0.0
    strongest = right.pop(MODELS[-1].name)
    assert strongest > 1.5 * max(right.values())
