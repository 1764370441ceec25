"""What a checkpoint keeps of the prompt tokens that were recorded."""

import numpy as np
import pytest

from routoo.domain.items import Item
from routoo.domain.prompt import estimate_text_tokens
from routoo.domain.tables import Outcomes, OutcomeTables
from routoo.training.tables import prompt_factors

PROMPT = "How many eggs are left?"
ESTIMATE = estimate_text_tokens({"messages": [{"role": "user", "content": PROMPT}]})


def tables(*tokens: float, items: int = 1) -> OutcomeTables:
    count = len(tokens)
    unknown = np.full(count, np.nan, np.float32)
    outcomes = Outcomes(
        [f"q{n % items}" for n in range(count)],
        ["m"] * count,
        np.ones(count, np.float32),
        np.array(tokens, np.float32),
        unknown,
        unknown.astype(np.float64),
        unknown,
    )
    return OutcomeTables(tuple(Item(f"q{n}", PROMPT) for n in range(items)), outcomes)


def test_many_outcomes_teach_what_a_prompt_is_billed() -> None:
    found = prompt_factors(tables(*[ESTIMATE / 2] * 500, items=500), ["m", "other"])
    assert found == {"m": pytest.approx(0.5, abs=0.02)}


def test_few_outcomes_teach_little() -> None:
    assert 0.8 < prompt_factors(tables(ESTIMATE / 2), ["m"])["m"] < 1


def test_prompts_that_held_more_than_the_item_and_unknown_counts_teach_nothing() -> None:
    assert prompt_factors(tables(5000.0, float("nan"), 0.0), ["m"]) == {}
