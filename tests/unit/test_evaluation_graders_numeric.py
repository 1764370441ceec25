"""The grader of numbers: which number of an answer counts, in which notation and unit."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.evaluation.graders import grade
from routoo.evaluation.graders.numeric.expressions import evaluate

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
    ("−5", "-5", {}, 1.0),
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
    ("3 × 10⁸ m/s", "300000000", {}, 1.0),
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


LATEX = [
    (r"\boxed{-\frac{3}{4}}", "-3/4", 1.0),
    (r"\boxed{-\frac{3}{4}}", "3/4", 0.0),
    (r"The answer is $-\dfrac{1}{2}$.", "-0.5", 1.0),
    (r"\frac12", "0.5", 1.0),
    (r"\boxed{9{,}500}", "9500", 1.0),
    (r"9\,500", "9500", 1.0),
    (r"\boxed{10,\!080}", "10080", 1.0),
    (r"\boxed{1{,}234{,}567}", "1234567", 1.0),
    (r"\boxed{3\sqrt{2}}", str(3 * math.sqrt(2)), 1.0),
    (r"3\sqrt{2}", "3", 0.0),
    (r"\sqrt[3]{27}", "3", 1.0),
    (r"\boxed{2^{10}}", "1024", 1.0),
    (r"2^10", "1024", 1.0),
    (r"\boxed{2^{10}}", "2", 0.0),
    (r"\boxed{2\pi}", str(2 * math.pi), 1.0),
    (r"2\pi", "2", 0.0),
    ("12π", str(12 * math.pi), 1.0),
    (r"5 \times 10^3", "5000", 1.0),
    (r"\boxed{5 \cdot 10^{-3}}", "0.005", 1.0),
    (r"\boxed{1\frac{1}{2}}", "1.5", 1.0),
    (r"\boxed{\frac{\sqrt{3}}{2}}", str(math.sqrt(3) / 2), 1.0),
    (r"so it is 1 + \sqrt{2}.", str(1 + math.sqrt(2)), 1.0),
    (r"\boxed{50\%}", "0.5", 1.0),
    (r"\boxed{90^\circ}", "90", 1.0),
    (r"\boxed{x = 5}", "5", 1.0),
    (r"\boxed{18 \text{ dollars}}", "18", 1.0),
    (r"\boxed{\$3 \text{ million}}", "3000000", 1.0),
    (r"\boxed{5\text{ km}}", "5", 1.0),
    (r"\boxed{36\pi \text{ cm}^2}", str(36 * math.pi), 1.0),
    (r"\boxed{5 cm^2}", "5", 1.0),
    (r"\boxed{\text{Answer: }42}", "42", 1.0),
    (r'{"answer": "John pays $31,800 a year."}', "31800", 1.0),
    (r"{\"answer\": \"\\boxed{\\frac{3}{4}}\"}", "0.75", 1.0),
]
NOT_READ = [
    *(r"\boxed{2x+1}", r"\boxed{2x}", "2x", r"\boxed{6i}", r"\boxed{(3,4)}", r"\boxed{[2,5)}"),
    *(r"\boxed{12 \text{ or } 13}", r"\boxed{\pm 3}", r"\boxed{5!}", r"\boxed{3:4}"),
    *(r"\boxed{0.\overline{3}}", r"\boxed{1011_2}", r"3\sqrt{x}", r"2^n", r"\frac{3}{x}"),
    *(r"2\frac{3}{2}", r"\frac{1}{0}", r"\boxed{x \le 5}"),
    *('{"answer": "p-2"}', "The answer is 9 * 2 = 18", "The answer is 12-13", "5k"),
]


@pytest.mark.parametrize(("answer", "reference", "score"), LATEX)
def test_latex_is_evaluated(answer: str, reference: str, score: float) -> None:
    found = grade("numeric", answer, reference)
    assert found.score == score, found.detail


@pytest.mark.parametrize("answer", NOT_READ)
@pytest.mark.parametrize("reference", ["2", "3", "5", "9"])
def test_what_is_no_one_number_is_ungraded_and_never_half_read(answer: str, reference: str) -> None:
    found = grade("numeric", answer, reference)
    assert found.score is None, found.detail


FRACTIONS = st.fractions(-1000, 1000, max_denominator=99)


def latex_of(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def value_of(text: str) -> Fraction | None:
    read = evaluate(text)
    return None if read is None else read.value


@given(FRACTIONS, FRACTIONS)
def test_sums_products_and_quotients_have_their_exact_value(
    left: Fraction, right: Fraction
) -> None:
    terms = latex_of(left), latex_of(abs(right))
    assert value_of(f"{terms[0]} + {terms[1]}") == left + abs(right)
    assert value_of(rf"{terms[0]} \cdot {terms[1]}") == left * abs(right)
    if right:
        quotient = rf"\frac{{{terms[0]}}}{{{terms[1]}}}"
        assert value_of(quotient) == left / abs(right)


@given(st.integers(-50, 50), st.integers(0, 12), st.integers(1, 10**6))
def test_powers_and_roots_have_their_exact_value(base: int, power: int, root: int) -> None:
    assert value_of(f"({base})^{{{power}}}") == base**power
    assert value_of(rf"\sqrt{{{root**2}}}") == root


@given(st.text(alphabet=r"\\frac{}sqt[]^_+-*/().,0123456789xi$ ", max_size=60))
def test_any_text_is_graded_or_ungraded(text: str) -> None:
    assert grade("numeric", text, "3").score in {0.0, 1.0, None}


@given(FRACTIONS)
def test_a_box_holds_what_it_shows(value: Fraction) -> None:
    answer = rf"First 17, then 4 of 5, so \boxed{{{latex_of(value)}}}, as 1 said."
    assert grade("numeric", answer, f"{value}").score == 1.0
