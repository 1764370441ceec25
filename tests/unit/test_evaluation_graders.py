"""Graders on answers as models really write them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.errors import InputError
from routoo.evaluation.graders import GRADERS, default_grader, grade
from routoo.evaluation.graders.grade import grade_recorded, recorded_answer
from routoo.evaluation.graders.judge import grade_verdicts

CHOICE = [
    ("C", "C", 1.0),
    ("C", "B", 0.0),
    ("C.", "C", 1.0),
    ("(C)", "C", 1.0),
    ("[C]", "C", 1.0),
    ("**C**", "C", 1.0),
    ("**C. Paris**", "C", 1.0),
    ("C) Paris", "C", 1.0),
    ("C: Paris", "C", 1.0),
    ("C - Paris", "C", 1.0),
    ("C – Paris", "C", 1.0),
    ("C\n\nParis is the capital of France.", "C", 1.0),
    ("Answer: C", "C", 1.0),
    ("Answer: (C) Paris", "C", 1.0),
    ("**Answer:** C", "C", 1.0),
    ("The answer is C.", "C", 1.0),
    ("The correct answer is **C. Paris**.", "C", 1.0),
    ("the correct option is C", "C", 1.0),
    ("Answer is option C", "C", 1.0),
    ("I think the answer is C, because A is wrong.", "C", 1.0),
    ("I would choose B.", "B", 1.0),
    ("I'd say B", "B", 1.0),
    ("Option B is correct.", "B", 1.0),
    ("B is the correct answer.", "B", 1.0),
    ("A is correct", "A", 1.0),
    ("A", "A", 1.0),
    ("I", "I", 1.0),
    (r"So we get $\boxed{D}$.", "D", 1.0),
    (r"\boxed{\text{D}}", "D", 1.0),
    ("A is too small, B is too big. Final answer: C", "C", 1.0),
    ("The answer is A? No. **Final Answer: B**", "B", 1.0),
    ("<think>Maybe A. Or B.</think>\n\nC", "C", 1.0),
    ("c", "C", 1.0),
    ("(c)", "C", 1.0),
    ("c) paris", "C", 1.0),
    ("answer: c", "C", 1.0),
    ("Ｃ", "C", 1.0),
    ("'C'", "C", 1.0),
    ("“C”", "C", 1.0),
    ("The answer isn't A, it is B.", "B", 1.0),
    ("The answer is not A but B.", "B", 1.0),
    ("C. Because A and B are smaller.", "C", 1.0),
    ("", "C", 0.0),
    ("   ", "C", 0.0),
    ("A or B", "A", None),
    ("A and B", "B", None),
    ("Either A or B", "B", None),
    ("A, B", "A", None),
    ("A/B", "A", None),
    ("A) or B)", "A", None),
    ("The answer is A or B.", "A", None),
    ("Answer: A and C", "A", None),
    ("A. Rome\nB. Berlin\nC. Paris\nD. Madrid", "C", None),
    ("The answer is A. Wait, the answer is B.", "B", None),
    ("Paris", "C", None),
    ("I don't know.", "I", None),
    ("A triangle has three sides.", "A", None),
    ("Vitamin C is found in oranges.", "C", None),
    ("It is not A.", "A", None),
    ("The programming language is C++", "C", None),
]


@pytest.mark.parametrize(("answer", "reference", "score"), CHOICE)
def test_choice_reads_the_letter_that_a_person_would_read(
    answer: str, reference: str, score: float | None
) -> None:
    found = grade("choice", answer, reference)
    assert found.score == score, found.detail


CHOICES = {"A": "red", "B": "dark red", "C": "The heart", "D": "languages"}
BY_TEXT = [
    ("A linguist studies languages.", "D", 1.0),
    ("A cardiologist studies the heart!", "D", 0.0),
    ("It is dark red.", "B", 1.0),
    ("It may be red, or languages.", "A", None),
    ("Blue.", "A", None),
    ("C, languages", "C", 1.0),
]


@pytest.mark.parametrize(("answer", "reference", "score"), BY_TEXT)
def test_choice_without_a_letter_is_read_by_the_options_text(
    answer: str, reference: str, score: float | None
) -> None:
    found = grade("choice", answer, reference, {"choices": CHOICES})
    assert found.score == score, found.detail


CONTAINS = [
    ("The capital of Australia is Canberra.", "Canberra", 1.0),
    ("Canberra", "Canberra", 1.0),
    ("canberra!", "Canberra", 1.0),
    ("It's **Canberra**, in the Australian Capital Territory.", "Canberra", 1.0),
    ("Canberra, Australia", "Canberra", 1.0),
    ("Yes, Canberra.", "Canberra", 1.0),
    ("Canberra is the capital and it lies inland.", "Canberra", 1.0),
    ("Canberra\n\nThe capital was chosen in 1908.", "Canberra", 1.0),
    ("It is not Sydney but Canberra.", "Canberra", 1.0),
    ("Sydney or Canberra. The capital is Canberra.", "Canberra", 1.0),
    ("The United Kingdom of Great Britain", "UK | United Kingdom", 1.0),
    ("He wrote Romeo and Juliet in 1595.", "Romeo and Juliet", 1.0),
    ("red, white and blue", "red, white and blue", 1.0),
    ("The colours are red, white and blue.", "red, white, and blue", 1.0),
    ("The largest planet is Jupiter, followed by Saturn and Uranus.", "Jupiter", 1.0),
    ("The output is `[1, 2, 3]`.", "[1, 2, 3]", 1.0),
    ("It is Canberra and Canberra.", "Canberra", 1.0),
    ("Sydney", "Canberra", 0.0),
    ("", "Canberra", 0.0),
    ("Canberran", "Canberra", 0.0),
    ("The capital is not Canberra.", "Canberra", 0.0),
    ("It isn't Canberra, it's Sydney.", "Canberra", 0.0),
    ("Canberra or Sydney", "Canberra", None),
    ("It could be Canberra, Sydney or Melbourne.", "Canberra", None),
    ("Either Sydney or Canberra.", "Canberra", None),
    ("Sydney, Melbourne, Canberra", "Canberra", None),
    ("Sydney and Canberra", "Canberra", None),
    ("- Sydney\n- Canberra\n- Perth", "Canberra", None),
    ("1. Sydney\n2. Canberra", "Canberra", None),
    ("Sydney\nCanberra\nPerth", "Canberra", None),
    ("Sydney/Canberra", "Canberra", None),
    (" ".join(["word"] * 60) + " Canberra", "Canberra", 0.0),
]


@pytest.mark.parametrize(("answer", "reference", "score"), CONTAINS)
def test_contains_takes_a_sentence_that_commits_and_no_list_of_candidates(
    answer: str, reference: str, score: float | None
) -> None:
    found = grade("contains", answer, reference)
    assert found.score == score, found.detail


OTHERS = [
    ("exact", " yes\n", "yes", {}, 1.0),
    ("exact", "Yes", "yes", {}, 0.0),
    ("normalized", "The  Eiffel Tower!", "eiffel tower", {}, 1.0),
    ("normalized", "**UK**", "United Kingdom | UK", {}, 1.0),
    ("normalized", "ﬁsh", "fish", {}, 1.0),
    ("normalized", "1,000", "1000", {}, 1.0),
    ("normalized", "C#", "C", {}, 0.0),
    ("normalized", "C++", "C", {}, 0.0),
    ("normalized", "3.14", "314", {}, 0.0),
    ("normalized", "-5", "5", {}, 0.0),
    ("normalized", "don’t", "dont", {}, 1.0),
    ("normalized", "twenty-one", "twenty one", {}, 1.0),
    ("normalized", "The", "the", {}, 1.0),
    ("normalized", "", "x", {}, 0.0),
    ("regex", "Order 1234 shipped", r"\b\d{4}\b", {}, 1.0),
    ("regex", "Order 1234 shipped", r"\d{4}", {"whole": True}, 0.0),
    ("regex", "YES", "yes", {}, 1.0),
    ("regex", "YES", "yes", {"case": True}, 0.0),
    ("json", '{"b": 1, "a": [1.0, 2]}', '{"a": [1, 2], "b": 1}', {}, 1.0),
    ("json", 'Sure:\n```json\n{"a": 1}\n```', '{"a": 1}', {}, 1.0),
    ("json", 'The object is {"a": 1}.', '{"a": 1}', {}, 1.0),
    ("json", "[3, 1, 2]", "[1, 2, 3]", {}, 0.0),
    ("json", '{"a": true}', '{"a": 1}', {}, 0.0),
    ("json", "true", "true", {}, 1.0),
    ("json", "none", "{}", {}, 0.0),
]


@pytest.mark.parametrize(("name", "answer", "reference", "options", "score"), OTHERS)
def test_text_and_structure_graders_follow_their_rules(
    name: str, answer: str, reference: str, options: dict[str, object], score: float | None
) -> None:
    found = grade(name, answer, reference, options)
    assert found.score == score, found.detail


@pytest.mark.parametrize("name", sorted(GRADERS))
def test_every_grader_says_how_it_decided(name: str) -> None:
    assert grade(name, "7", "true" if name == "json_schema" else "7").detail


def test_an_unknown_grader_is_refused_with_the_list() -> None:
    with pytest.raises(InputError, match="code_output, contains, exact, json"):
        grade("vibes", "x", "x")


@pytest.mark.parametrize(
    ("name", "reference"), [("numeric", "many"), ("regex", "("), ("json", "{")]
)
def test_a_reference_that_a_grader_cannot_use_is_refused(name: str, reference: str) -> None:
    with pytest.raises(InputError):
        grade(name, "5", reference)


DEFAULTS = [
    ("Which?\nA. one\nB. two", "B", "choice"),
    ("Which?\n(A) one\n(B) two", "(B)", "choice"),
    ("Symbol of carbon?", "C", "contains"),
    ("How many?", "1,200", "numeric"),
    ("Who?", "Ada Lovelace", "contains"),
    ("Say it all", "one two three four five six seven", "normalized"),
]


@pytest.mark.parametrize(("prompt", "reference", "name"), DEFAULTS)
def test_an_item_without_a_grader_gets_one_that_fits(
    prompt: str, reference: str, name: str
) -> None:
    assert default_grader(prompt, reference) == name


REFERENCES = {
    "choice": "B",
    "exact": "x",
    "normalized": "x",
    "contains": "canberra",
    "numeric": "42",
    "regex": "x+y",
    "json": "[1]",
    "json_schema": '{"type": "array"}',
    "code_output": "[1]",
}
BABBLE = [
    "A " * 20_000,
    "1," * 20_000,
    "1/" * 20_000,
    "1'" * 20_000,
    "10^" * 10_000,
    "9" * 5_000,
    "[" * 20_000,
    '{"a":' * 10_000,
    "(" * 20_000,
    "not A or " * 5_000,
    "the answer is " * 5_000,
    "canberra or " * 5_000,
    "answer" + " " * 20_000 + "Z",
    "\n" * 20_000 + "x",
    "<think>" * 5_000,
    "- a\n" * 10_000,
]


@pytest.mark.parametrize("name", sorted(GRADERS))
def test_endless_babble_costs_no_endless_time(name: str) -> None:
    for answer in BABBLE:
        assert grade(name, answer, REFERENCES[name]).score in {0.0, 1.0, None}


@pytest.mark.parametrize("name", sorted(GRADERS))
@given(answer=st.text() | st.text(alphabet="AaB1|,.-/()[]{}\"'*_ \norntwe^%×²½", max_size=80))
def test_any_text_gets_a_grade(name: str, answer: str) -> None:
    assert grade(name, answer, REFERENCES[name]).score in {0.0, 1.0, None}


@given(st.sampled_from("ABCDEFGHIJKLMNOP"), st.sampled_from("ABCDEFGHIJKLMNOP"))
def test_a_letter_is_right_exactly_when_it_is_the_references(said: str, wanted: str) -> None:
    for form in ("{}", "({})", "**{}**", "Answer: {}", "{}) it", "The correct answer is {}."):
        assert grade("choice", form.format(said), wanted).score == float(said == wanted)


SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0}},
        "required": ["age"],
        "additionalProperties": False,
    }
)


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
    assert grade_verdicts(reference_first, answer_first).score == score


def test_a_replayed_score_comes_back_as_it_was_recorded() -> None:
    assert grade_recorded(recorded_answer(0.25)).score == 0.25
    assert grade_recorded(recorded_answer(None)).score is None
    assert grade_recorded("The answer is 4.").score is None
    assert grade_recorded("The answer is 4.", "0.5").score == 0.5
    assert grade_recorded("The answer is 4.", "half").score is None
