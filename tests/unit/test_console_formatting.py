"""Amounts as people read them."""

import pytest

from routoo.console import formatting


@pytest.mark.parametrize(
    ("answers_per_usd", "cost_usd", "said"),
    [
        (4.0, 20.0, "$1 more buys about 4 more good answers"),
        (400.0, 0.5, "$0.01 more buys about 4 more good answers"),
        (0.03, 4000.0, "$100 more buys about 3 more good answers"),
        (5.0, 0.0, "$1 more buys about 5 more good answers"),
    ],
)
def test_the_price_of_money_is_told_of_an_amount_small_beside_the_cost(
    answers_per_usd: float, cost_usd: float, said: str
) -> None:
    assert formatting.describe_shadow_price(answers_per_usd, cost_usd) == said
