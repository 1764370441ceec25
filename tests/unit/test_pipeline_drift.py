"""What calls cost against what a plan made with some experience expects of them."""

import pytest

from routoo.domain.prediction import NO_EXPERIENCE, ModelExperience
from routoo.pipeline.select.drift import CostComparison, compare_cost
from routoo.pipeline.select.experience import MIN_CALLS, RECENT_CALLS, fit_experience
from tests.unit.test_pipeline_experience import calls, candidate


def test_calls_as_foreseen_drift_nowhere_and_dearer_ones_up() -> None:
    assert compare_cost(candidate(), calls(50), NO_EXPERIENCE).drift() == pytest.approx(0.0)
    dear = compare_cost(candidate(), calls(50, prompt=2, completion=2), NO_EXPERIENCE)
    assert dear.drift() == pytest.approx(1.0)


def test_few_calls_tell_nothing() -> None:
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
