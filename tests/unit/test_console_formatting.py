"""Amounts as people read them."""

from decimal import Decimal
from uuid import UUID

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


def test_ids_are_cut_to_what_tells_them_apart() -> None:
    first = UUID("f03aa575-cf67-42af-8962-b8112e9e227f")
    second = UUID("f03aa575-cf68-42af-8962-b8112e9e227f")
    other = UUID("03aa575c-cf67-42af-8962-b8112e9e227f")
    assert formatting.short_ids([first, other]) == {first: "f03aa575", other: "03aa575c"}
    shown = formatting.short_ids([first, second])
    assert shown == {first: "f03aa575-cf67", second: "f03aa575-cf68"}
    assert formatting.short_ids([first, first]) == {first: "f03aa575"}


def test_costs_are_told_for_a_thousand() -> None:
    assert formatting.usd_per_thousand(Decimal("0.00027"), 270) == "$0.00100"
    assert formatting.usd_per_thousand(None, 270) == "-"
    assert formatting.usd_per_thousand(1.0, 0) == "-"


@pytest.mark.parametrize(
    ("compared", "said"), [(0.2, ""), (12.4, " (12 to see whether both agree)")]
)
def test_second_answers_that_are_compared_are_counted_apart(compared: float, said: str) -> None:
    probes = {
        "jobs": 40,
        "share": 0.5,
        "escalation_share": 0.45,
        "second_cost_usd": 0.01,
        "compared": compared,
        "models": [{"model": "small", "jobs": 40}],
    }
    wanted = f"45.0% are expected to ask another model too{said}, for $0.0100"
    assert wanted in formatting.describe_probes(probes)
