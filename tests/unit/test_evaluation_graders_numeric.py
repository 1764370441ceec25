"""Graders of units, schemas, foretold outputs, judged and replayed answers."""

import json

import pytest

from routoo.errors import InputError
from routoo.evaluation.graders import grade
from routoo.evaluation.graders.judge import settle
from routoo.evaluation.graders.recorded import grade_recorded, recorded_answer

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0}},
        "required": ["age"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("It is 5 km long.", 1),
        ("5,000 m", 1),
        ("5000", 1),
        ("After 3 hours it has gone 5 kilometres.", 1),
        ("500000 cm", 1),
        ("5 miles", 0),
        ("5000 seconds", 0),
        ("5000 in total", 1),
    ],
)
def test_a_number_is_read_in_the_unit_it_carries(answer: str, score: float) -> None:
    assert grade("numeric", answer, "5000", {"unit": "m"}).score == score


def test_a_converted_number_may_be_off_by_the_tolerance() -> None:
    options = {"unit": "km", "relative_tolerance": 0.01}
    assert grade("numeric", "3.1 miles", "5", options).score == 1
    assert grade("numeric", "3 miles", "5", options).score == 0


@pytest.mark.parametrize(
    ("answer", "score", "said"),
    [
        ('Here you are:\n```json\n{"age": 3}\n```', 1, "fits"),
        ('{"age": -1}', 0, ".age: -1 is less than the minimum of 0"),
        ('{"age": 3, "name": "x"}', 0, "Additional properties"),
        ("I can't.", 0, "no JSON"),
    ],
)
def test_json_must_fit_its_schema(answer: str, score: float, said: str) -> None:
    found = grade("json_schema", answer, SCHEMA)
    assert found.score == score
    assert said in found.detail


@pytest.mark.parametrize("schema", ['{"type": "objekt"}', "{", '{"$ref": "http://localhost:1/x"}'])
def test_a_schema_that_can_not_be_used_is_refused_and_nothing_is_fetched(schema: str) -> None:
    with pytest.raises(InputError, match=r"schema|Schema"):
        grade("json_schema", "{}", schema)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("[1, 2]", 1),
        ("The output is: `[1,2]`", 1),
        ("Let me see.\n```python\nx = 1\n```\nOutput:\n```\n[1, 2]\n```", 1),
        ("assert f(1) == [1, 2]", 1),
        ("It returns `[1, 2]`.", 1),
        ("[1, 2.0]", 0),
        ("(1, 2)", 0),
        ("First `[1]`, then `[1, 2]`.", None),
        ("", 0),
    ],
)
def test_a_foretold_output_is_compared_and_never_run(answer: str, score: float | None) -> None:
    assert grade("code_output", answer, "[1, 2]").score == score


def test_lines_of_output_are_compared_without_space_at_their_ends() -> None:
    assert grade("code_output", "Output:\n```\na \nb\n```", "a\nb\n").score == 1


@pytest.mark.parametrize(
    ("reference_first", "answer_first", "score"),
    [
        ("Good. Verdict: B", "Verdict: A", 1),
        ("verdict: **tie**", "Verdict: A", 1),
        ("Verdict: A", "Verdict: B", 0),
        ("Verdict: A", "Verdict: A", None),
        ("No idea.", "Verdict: A", None),
        (None, "Verdict: A", None),
    ],
)
def test_a_judge_must_say_the_same_in_both_orders(
    reference_first: str | None, answer_first: str, score: float | None
) -> None:
    assert settle(reference_first, answer_first).score == score


def test_a_replayed_score_comes_back_as_it_was_recorded() -> None:
    assert grade_recorded(recorded_answer(0.25)).score == 0.25
    assert grade_recorded(recorded_answer(None)).score is None
    assert grade_recorded("The answer is 4.").score is None
