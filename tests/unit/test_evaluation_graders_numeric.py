"""The grader of numbers: which number of an answer counts, in which notation and unit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.evaluation.graders import grade

NUMERIC = [
    ("42", "42", {}, 1.0),
    ("42.", "42", {}, 1.0),
    ("42.0", "42", {}, 1.0),
    ("The answer is 42.", "42", {}, 1.0),
    ("6 x 7 = 42", "42", {}, 1.0),
    ("It is **42**.", "42", {}, 1.0),
    ("$42", "42", {}, 1.0),
    ("Janet makes $18 every day.", "18", {}, 1.0),
    ("She has 16 - 3 - 4 = 9 eggs, so 9 * 2 = $18 a day.", "18", {}, 1.0),
    ("#### 18", "18", {}, 1.0),
    (r"\boxed{18}", "18", {}, 1.0),
    ("The answer is 42, since 6 times 7 is 42 and not 41.", "42", {}, 1.0),
    ("1,234", "1234", {}, 1.0),
    ("1\u202f234\u202f567", "1234567", {}, 1.0),
    ("1234", "1,234", {}, 1.0),
    ("3,14", "3.14", {}, 1.0),
    ("-5", "-5", {}, 1.0),
    ("−5", "-5", {}, 1.0),  # noqa: RUF001 - the minus sign
    ("5", "-5", {}, 0.0),
    ("-5", "5", {}, 0.0),
    ("3/4", "0.75", {}, 1.0),
    ("1 1/2", "1.5", {}, 1.0),
    (r"\frac{3}{4}", "0.75", {}, 1.0),
    ("0.75", "3/4", {}, 1.0),
    ("50%", "0.5", {}, 1.0),
    ("50%", "50", {}, 1.0),
    ("50 percent", "50%", {}, 1.0),
    ("50", "0.5", {}, 0.0),
    ("2.5e3", "2500", {}, 1.0),
    ("2.5 x 10^3", "2500", {}, 1.0),
    ("3 × 10⁸ m/s", "300000000", {}, 1.0),  # noqa: RUF001 - the multiplication sign
    ("3 million", "3000000", {}, 1.0),
    ("Twelve.", "12", {}, 1.0),
    ("twenty-one", "21", {}, 1.0),
    ("about 3.1", "3.14159", {"tolerance": 0.05}, 1.0),
    ("about 3.2", "3.14159", {"tolerance": 0.05}, 0.0),
    ("101", "100", {"relative_tolerance": 0.01}, 1.0),
    ("102", "100", {"relative_tolerance": 0.01}, 0.0),
    ("100 °C or 212 °F", "100", {"unit": "°C"}, 1.0),
    ("In 2020 it was 5 km.", "5", {"unit": "km"}, 1.0),
    ("12", "12 | 13", {}, 1.0),
    ("0.1 + 0.2 = 0.3", "0.3", {}, 1.0),
    ("The output of the code will be `4`, as 4 is multiplied by 3.", "4", {}, 1.0),
    ("The difference between 9 and 4 is 5.", "5", {}, 1.0),
    ("The sum of 5 and 7 equals 12, not 13.", "12", {}, 1.0),
    ("7 - 3", "3", {}, 1.0),
    ("no idea", "42", {}, 0.0),
    ("", "42", {}, 0.0),
    ("12 or 13", "12", {}, None),
    ("between 12 and 13", "13", {}, None),
    ("12 to 13", "13", {}, None),
    ("It was 5 in 2020", "5", {"pick": "only"}, None),
]


@pytest.mark.parametrize(("answer", "reference", "options", "score"), NUMERIC)
def test_numeric_takes_the_number_that_is_the_result(
    answer: str, reference: str, options: dict[str, object], score: float | None
) -> None:
    found = grade("numeric", answer, reference, options)
    assert found.score == score, found.detail


@given(st.integers(-(10**12), 10**12))
def test_any_whole_number_in_a_sentence_is_found(number: int) -> None:
    for answer in (f"It is {number}.", f"**{number:,}**", f"So x = {number}"):
        assert grade("numeric", answer, str(number)).score == 1.0


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
