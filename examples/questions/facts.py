"""Facts written by hand: geography, science, history, culture, language, computing, measures."""

import csv
from pathlib import Path

from examples.questions.question import Question

_FILE = Path(__file__).with_name("facts.tsv")


def facts() -> list[Question]:
    """Return the hand-written questions, in the order of the file."""
    with _FILE.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [
            Question(row["subject"], row["grader"], row["answer"], row["question"]) for row in rows
        ]
