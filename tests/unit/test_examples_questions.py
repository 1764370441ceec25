"""The example batch and the training questions: well-formed, right, and apart."""

import re
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from examples.questions.__main__ import training_questions, write
from examples.questions.code_reading import printed
from examples.questions.question import Question, with_instruction
from examples.questions.words import lone_letter
from routoo.evaluation.graders import GRADERS, grade
from routoo.settings import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
MAX_SHARED_WORDS = 0.8


def read(name: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (EXAMPLES / name).read_bytes().splitlines()]


def prompt(row: dict[str, Any]) -> str:
    (message,) = row["body"]["messages"]
    return str(message["content"])


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9']+", text.lower()))


BATCH = read("batch.jsonl")
REFERENCES = read("references.jsonl")
TRAINING = read("training_questions.jsonl")


def test_the_example_batch_has_at_least_200_jobs_of_many_subjects() -> None:
    assert len(BATCH) >= 200
    assert len({row["custom_id"].rsplit("-", 1)[0] for row in BATCH}) >= 10


def test_every_job_of_the_batch_is_an_openai_batch_row_with_a_short_answer() -> None:
    for row in BATCH:
        assert row["method"] == "POST"
        assert row["url"] == "/v1/chat/completions"
        assert row["body"]["max_tokens"] == 24
        assert row["body"]["temperature"] == 0
        assert prompt(row)


def test_every_job_has_its_own_id_and_exactly_one_reference() -> None:
    ids = [row["custom_id"] for row in BATCH]
    assert len(set(ids)) == len(ids)
    assert [row["custom_id"] for row in REFERENCES] == ids


@pytest.mark.parametrize("rows", [REFERENCES, TRAINING], ids=["batch", "training"])
def test_every_reference_can_be_used_by_its_grader(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["grader"] in GRADERS
        if row["grader"] != "regex":
            first = row["answer"].split("|")[0]
            assert grade(row["grader"], first, row["answer"]).score == 1.0, row


def test_every_reference_of_a_code_question_is_what_the_code_prints() -> None:
    asked = [(prompt(row), ref["answer"]) for row, ref in zip(BATCH, REFERENCES, strict=True)]
    asked += [(row["prompt"], row["answer"]) for row in TRAINING]
    code = [(re.search(r"```python\n(.*)\n```", text, re.DOTALL), answer) for text, answer in asked]
    checked = [(found[1], answer) for found, answer in code if found]
    assert len(checked) > 100
    for snippet, answer in checked:
        assert printed(snippet) == answer, snippet


def test_no_question_comes_twice() -> None:
    for prompts in ([prompt(row) for row in BATCH], [row["prompt"] for row in TRAINING]):
        assert len(set(prompts)) == len(prompts)
    assert len({row["item_id"] for row in TRAINING}) == len(TRAINING)


def test_no_job_of_the_batch_is_a_near_copy_of_a_training_question_with_its_answer() -> None:
    seen = [(words(row["prompt"]), row["answer"]) for row in TRAINING]
    for row, reference in zip(BATCH, REFERENCES, strict=True):
        mine = words(prompt(row))
        for theirs, answer in seen:
            if answer == reference["answer"]:
                assert len(mine & theirs) / len(mine | theirs) < MAX_SHARED_WORDS, prompt(row)


def test_the_committed_training_questions_are_what_the_generator_writes(tmp_path: Path) -> None:
    again = tmp_path / "again.jsonl"
    write(again, EXAMPLES / "batch.jsonl")
    assert again.read_bytes() == (EXAMPLES / "training_questions.jsonl").read_bytes()


def test_questions_of_the_batch_are_left_out_of_training(tmp_path: Path) -> None:
    question = training_questions()[0]
    batch = tmp_path / "batch.jsonl"
    batch.write_text(orjson.dumps({"prompt": question.text}).decode(), encoding="utf-8")
    written = write(tmp_path / "out.jsonl", batch)
    assert written == len(training_questions()) - 1
    assert question.text not in (tmp_path / "out.jsonl").read_text(encoding="utf-8")


def test_arithmetic_is_right() -> None:
    sums = [row for row in TRAINING if re.fullmatch(r"What is \d+ [-+*] \d+\? .*", row["prompt"])]
    assert sums
    for row in sums:
        a, sign, b = re.findall(r"\d+|[-+*]", row["prompt"])[:3]
        right = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert int(row["answer"]) == right, row


def test_an_instruction_stands_on_its_own_line_after_code() -> None:
    question = Question("code", "numeric", "1", "What?\n```python\nprint(1)\n```")
    rng = Random(1)
    assert with_instruction(question, rng).splitlines()[-2] == "```"


@pytest.mark.parametrize(
    ("answer", "right"), [("r", True), ("R.", True), ('"r"', True), ("garden", False), ("e", False)]
)
def test_a_lone_letter_counts_and_a_letter_in_a_word_does_not(answer: str, *, right: bool) -> None:
    assert grade("regex", answer, lone_letter("r")).score == float(right)
