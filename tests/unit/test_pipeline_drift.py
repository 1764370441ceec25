"""When a running batch drifts from its plan: by the cost of its calls, or by those that fail."""

import pytest

from routoo.domain.prediction import NO_EXPERIENCE, ModelExperience
from routoo.pipeline.select.drift import CostComparison, compare_cost, failure_drift, sure_shares
from routoo.pipeline.select.experience import (
    MIN_CALLS,
    RECENT_CALLS,
    fit_experience,
    learn_failures,
)
from routoo.store.model_calls import NO_CALLS, ModelCalls
from tests.unit.test_pipeline_experience import calls, candidate

MOST = 0.25


def test_calls_as_estimated_show_no_drift_and_dearer_ones_do() -> None:
    assert compare_cost(candidate(), calls(50), NO_EXPERIENCE).drift() == pytest.approx(0.0)
    dear = compare_cost(candidate(), calls(50, prompt=2, completion=2), NO_EXPERIENCE)
    assert dear.drift() == pytest.approx(1.0)


def test_few_calls_show_no_drift() -> None:
    assert CostComparison(MIN_CALLS - 1, 100.0, 1.0).drift() == 0.0
    assert CostComparison(MIN_CALLS, 100.0, 0.0).drift() == 0.0


def test_a_plan_that_learned_from_the_calls_does_not_drift_from_them() -> None:
    seen = calls(RECENT_CALLS, prompt=0.5, completion=3)
    learned = fit_experience(candidate(), seen)
    assert abs(compare_cost(candidate(), seen, learned).drift()) < 0.15


def test_a_correction_beyond_the_completion_limit_expects_the_limit() -> None:
    small = candidate().model_copy(update={"max_completion_tokens": 12})
    seen = calls(50)
    compared = compare_cost(small, seen, ModelExperience(completion_factor=10.0))
    prompts = compare_cost(small, seen, ModelExperience(completion_factor=0.0)).expected_usd
    assert compared.expected_usd - prompts == pytest.approx(50 * 12 / 1e6)


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


def outcomes(failed: int, calls: int) -> ModelCalls:
    return ModelCalls(calls, failed, 0.001 * failed, calls, failed)


def test_sure_shares_are_wilsons_interval() -> None:
    assert sure_shares(40, 100) == pytest.approx((0.2839, 0.5286), abs=1e-4)  # by SciPy
    assert sure_shares(0, 50)[0] == 0.0
    assert sure_shares(50, 50)[1] == 1.0


@pytest.mark.parametrize(("failed", "calls"), [(10, 100), (25, 100), (8, 20), (19, 19)])
def test_failures_within_noise_or_too_few_change_no_plan(failed: int, calls: int) -> None:
    assert failure_drift("m", NO_EXPERIENCE, outcomes(failed, calls), MOST) is None


def test_a_share_that_is_surely_beyond_the_plan_gives_its_figures() -> None:
    reason = failure_drift("m", NO_EXPERIENCE, outcomes(40, 100), MOST)
    assert reason == "40 of 100 calls to m failed, planned were 0% and at least 28% are sure"


def test_a_plan_that_learned_the_share_holds_while_it_stays_and_not_once_it_is_over() -> None:
    learned = learn_failures(NO_EXPERIENCE, NO_EXPERIENCE, outcomes(40, 100))
    assert failure_drift("m", learned, outcomes(80, 200), MOST) is None
    over = failure_drift("m", learned, outcomes(0, 100), MOST)
    assert over is not None
    assert over.endswith("planned were 33% and at most 6% are sure")


def test_few_calls_teach_little_and_none_change_nothing() -> None:
    learned = learn_failures(NO_EXPERIENCE, NO_EXPERIENCE, outcomes(MIN_CALLS, MIN_CALLS))
    assert (learned.failure_share, learned.unanswered_share) == (0.5, 0.5)
    assert learned.failed_usd == pytest.approx(0.0005)
    known = ModelExperience(calls=7, prompt_factor=2.0)
    kept = learn_failures(known, learned, NO_CALLS)
    assert (kept.calls, kept.prompt_factor) == (7, 2.0)
    assert kept.failed_usd == pytest.approx(learned.failed_usd)
    assert (kept.failure_share, kept.unanswered_share) == (0.5, 0.5)
