"""Reading reference answers."""

from pathlib import Path

import pytest

from producer.evaluation.grading import Reference, read_references
from routoo.errors import InputError


def test_references_are_read_by_custom_id(tmp_path: Path) -> None:
    path = tmp_path / "references.jsonl"
    path.write_text(
        '{"custom_id": "a", "answer": "4", "grader": "numeric", "grader_options": {"digits": 1}}\n'
        '\n{"custom_id": "b", "answer": "x"}\n'
    )
    assert read_references(path) == {
        "a": Reference("4", "numeric", '{"digits":1}'),
        "b": Reference("x"),
    }


@pytest.mark.parametrize("line", ["{", "[]", '{"custom_id": "b"}', '{"answer": "x"}'])
def test_a_line_that_is_no_reference_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "references.jsonl"
    path.write_text('{"custom_id": "a", "answer": "4"}\n' + line)
    with pytest.raises(InputError, match=r"references\.jsonl:2: the line is no reference"):
        read_references(path)


def test_two_references_of_one_job_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "references.jsonl"
    path.write_text('{"custom_id": "a", "answer": "4"}\n' * 2)
    with pytest.raises(InputError, match=":2: the custom_id has two references"):
        read_references(path)


def test_missing_references_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        read_references(tmp_path / "none.jsonl")
