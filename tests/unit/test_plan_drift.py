"""When a running batch's plan is given up."""

import pytest

from routoo.pipeline.select.drift import CostComparison
from routoo.pipeline.select.experience import MIN_CALLS


@pytest.mark.parametrize(
    ("actual_usd", "keeps_savings", "missed"),
    [
        (1.2, False, False),
        (0.8, False, False),
        (1.3, False, True),
        (0.7, False, True),
        (1.3, True, True),
        (0.7, True, False),
    ],
)
def test_a_plan_that_its_owner_saw_is_given_up_for_higher_costs_only(
    actual_usd: float, *, keeps_savings: bool, missed: bool
) -> None:
    compared = CostComparison(MIN_CALLS, actual_usd, expected_usd=1.0)
    assert compared.misses(0.25, keeps_savings=keeps_savings) is missed


def test_a_few_calls_prove_nothing() -> None:
    assert not CostComparison(MIN_CALLS - 1, 9.0, expected_usd=1.0).misses(
        0.25, keeps_savings=False
    )
