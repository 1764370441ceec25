"""Writes `examples/training_questions.jsonl`; run it from the repository's root."""

from pathlib import Path
from random import Random

import orjson

from examples.questions.arithmetic import arithmetic
from examples.questions.choices import choices
from examples.questions.code_reading import code_reading
from examples.questions.facts import facts
from examples.questions.measures import measures
from examples.questions.question import MAX_TOKENS, Question, with_instruction
from examples.questions.words import words
from routoo.settings import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
_SEED = 20261122


def training_questions() -> list[Question]:
    """Return all training questions, none twice."""
    rng = Random(_SEED)
    questions = [
        *facts("facts.tsv"), *arithmetic(rng, 144), *code_reading(rng, 130), *words(rng, 56),
        *measures(rng, 54), *choices(rng),
        # What was added later stands last, so that the numbers and prompts of the rest stay.
        *arithmetic(rng, 208), *code_reading(rng, 150), *words(rng, 64), *measures(rng, 60),
        *facts("further_facts.tsv"),
    ]  # fmt: skip
    return list({question.text: question for question in questions}.values())


def write(path: Path, batch: Path) -> int:
    """Write the questions that are not in the example batch, and return how many there are.

    Args:
        path: JSONL file to write.
        batch: The example batch, whose questions must stay unseen by training.
    """
    asked = batch.read_text(encoding="utf-8")
    rng = Random(_SEED)
    rows = [
        _row(number, question, with_instruction(question, rng))
        for number, question in enumerate(training_questions())
        # As it stands inside a JSON string.
        if orjson.dumps(question.text)[1:-1].decode() not in asked
    ]
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return len(rows)


def _row(number: int, question: Question, prompt: str) -> dict[str, object]:
    return {
        "item_id": f"example/{question.subject}/{number:04}",
        "prompt": prompt,
        "answer": question.answer,
        "grader": question.grader,
        "subject": question.subject,
        "max_tokens": MAX_TOKENS,
    }


if __name__ == "__main__":
    written = write(EXAMPLES / "training_questions.jsonl", EXAMPLES / "batch.jsonl")
    print(f"{written} questions")
