"""How an answer is read: what it states, which option it chooses, whether its arithmetic holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.judge.answer_features import _checked_equations, answer_features
from routoo.judge.reading import Form, read_answer

OPTIONS = "What is 2 + 3?\nA. 4\nB. 5\nC. 6"


@pytest.mark.parametrize(
    ("answer", "form", "final", "letter"),
    [
        ("Adding gives 5. The answer is (B).", Form.SENTENCE, "(B).", "B"),
        ("Answer: B", Form.SENTENCE, "B", "B"),
        ("B", Form.SHORT, "B", "B"),
        ("5", Form.SHORT, "5", "B"),
        ("so we get \\boxed{5}", Form.BOXED, "5", "B"),
        ("2 + 3 = 5\n#### 5", Form.MARKED, "5", "B"),
        ('{"reasoning": "2 + 3 = 5", "answer": "B"}', Form.JSON, "B", "B"),
        ('```json\n{"reasoning": "x", "answer": 5}\n```', Form.JSON, "5", "B"),
        ('{"reasoning": "cut off", "answer": "B', Form.BROKEN_JSON, "B", "B"),
        ("I " + "think about it " * 20, Form.NOWHERE, "", ""),
        ("", Form.NOWHERE, "", ""),
        ("The answer is (K).", Form.SENTENCE, "(K).", ""),
    ],
)
def test_the_final_statement_of_an_answer_is_found(
    answer: str, form: Form, final: str, letter: str
) -> None:
    reading = read_answer(OPTIONS, answer)
    assert (reading.form, reading.final, reading.letter) == (form, final, letter)


def test_the_last_statement_counts() -> None:
    reading = read_answer(OPTIONS, "The answer is A. No: the answer is B.")
    assert reading.letter == "B"


@pytest.mark.parametrize(
    ("text", "right", "wrong"),
    [
        ("16 - 3 - 4 = 9 eggs", 1, 0),
        ("9 * $2 = $18 a day, so 18 * 7 = 120", 1, 1),
        ("2 \\times 3 = 6 and (1 + 2) * 4 = 12", 2, 0),
        ("10 / 3 = 3.33", 1, 0),
        ("x = 5", 0, 0),
        ("1 / 0 = 7", 0, 0),
        ("3 + 4 = 2 + 5", 0, 0),
    ],
)
def test_sums_in_an_answer_are_checked(text: str, right: int, wrong: int) -> None:
    assert _checked_equations(text)[:2] == (right, wrong)


@given(st.text(max_size=300), st.text(max_size=600), st.sampled_from([None, "stop", "length"]))
def test_any_answer_has_finite_features(prompt: str, answer: str, reason: str | None) -> None:
    features = answer_features(prompt, answer, reason, 100.0)
    assert np.isfinite(features).all()
    assert features.shape == answer_features("", "", None, 1.0).shape


@given(st.from_regex(r"[-0-9+*/=(). ,$%eE]{0,80}", fullmatch=True))
def test_arithmetic_of_any_kind_is_read_without_an_error(text: str) -> None:
    _checked_equations(text)
    answer_features(text, text, None, 10.0)
