"""Failed calls against what a plan assumes of them."""

import pytest

from routoo.domain.prediction import NO_EXPERIENCE, ModelExperience
from routoo.pipeline.select.drift import failure_drift, sure_shares
from routoo.pipeline.select.experience import MIN_CALLS, learn_failures
from routoo.store.model_calls import NO_CALLS, ModelOutcomes

MOST = 0.25


def outcomes(failed: int, calls: int) -> ModelOutcomes:
    return ModelOutcomes(calls, failed, 0.001 * failed, calls, failed)


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
