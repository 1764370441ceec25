"""Whether two answers state the same result, without knowing the right one."""

import pytest

from routoo.judge.agreement import Agreement, StatedResult, agreements, is_open

CHOICE = "Which?\nA. red\nB. blue\nC. green"


@pytest.mark.parametrize(
    ("prompt", "one", "other", "wanted"),
    [
        ("How many?", "So the answer is 1,200.", "#### 1200.0", Agreement.SAME),
        ("How many?", "The answer is $42 dollars.", '{"answer": "42"}', Agreement.SAME),
        ("How many?", "The answer is 41.", "The answer is 42.", Agreement.DIFFERENT),
        ("Solve.", r"\\boxed{\\dfrac{1}{2}}", r"\\boxed{\\frac{1}{2}}", Agreement.SAME),
        ("Solve.", r"\\boxed{x + 1}", r"\\boxed{x+2}", Agreement.DIFFERENT),
        ("f()?", "The output is ['a', 1]", 'assert f() == ["a", 1]', Agreement.SAME),
        ("f()?", "The output is [1, 2]", "The output is (1, 2)", Agreement.DIFFERENT),
        ("f()?", "The output is 'ab'", "The output is 'aB'", Agreement.DIFFERENT),
        (CHOICE, "The answer is (B).", "Answer: B", Agreement.SAME),
        (CHOICE, "The answer is blue", "The answer is (C).", Agreement.DIFFERENT),
        (CHOICE, "The answer is (B).", "I can't say that at all, sorry.", Agreement.UNKNOWN),
        ("How many?", "", "The answer is 42.", Agreement.UNKNOWN),
        ("How many?", "3 apples and 4 pears", "3 pears and 4 apples", Agreement.DIFFERENT),
    ],
)
def test_results_are_compared_as_what_they_are(
    prompt: str, one: str, other: str, wanted: Agreement
) -> None:
    first, second = StatedResult.of(prompt, one), StatedResult.of(prompt, other)
    assert first.agreement(second) == second.agreement(first) == wanted


def test_a_prompt_with_options_is_not_open() -> None:
    assert is_open("How many?")
    assert not is_open(CHOICE)


def test_agreements_are_those_of_each_prompt() -> None:
    four, five = (StatedResult.of("How many?", f"The answer is {n}.") for n in (4, 5))
    assert agreements([four, four], [four, five]).tolist() == [Agreement.SAME, Agreement.DIFFERENT]
