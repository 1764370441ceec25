"""Masks from per-job limits, explanations, confidence bounds."""

from decimal import Decimal

import numpy as np
import pytest

from routoo.domain.job import SLA
from routoo.errors import InputError
from routoo.selector import Problem, solve
from routoo.selector.confidence import (
    fit_floor,
    lower_quality,
    quality_interval,
    risk_of_confidence,
)
from routoo.selector.explain import explain
from routoo.selector.job_limits import (
    IneligibilityReason,
    JobEstimates,
    JobLimits,
    find_reasons,
)

QUALITY = np.array([[0.5, 0.7, 0.9], [0.5, 0.7, 0.85]], dtype=np.float32)
COST = np.array([[1.0, 2.0, 6.0]] * 2)
NAMES = ("small", "middle", "large")


def test_each_limit_rules_out_with_its_own_reason() -> None:
    limits = JobLimits.of([SLA(), SLA(0.6, Decimal("2.0"), 1.5)])
    estimates = JobEstimates(QUALITY, COST, np.array([[1.0, 2.0, 1.0]] * 2))
    reasons = find_reasons(estimates, limits)
    assert reasons.dtype == np.uint8
    assert reasons.tolist() == [
        [0, 0, 0],
        [IneligibilityReason.QUALITY, IneligibilityReason.LATENCY, IneligibilityReason.COST],
    ]


def test_a_prompt_that_leaves_no_room_for_its_answer_rules_the_model_out() -> None:
    estimates = JobEstimates(
        QUALITY,
        COST,
        prompt_tokens=np.array([[100] * 3, [5000] * 3]),
        completion_tokens=np.full((2, 3), 1024),
        window_tokens=np.array([2048, 8192, 6024]),
    )
    reasons = find_reasons(estimates, JobLimits.of([SLA(), SLA()]))
    assert reasons.tolist() == [[0, 0, 0], [IneligibilityReason.WINDOW, 0, 0]]


def test_allow_and_deny_lists_and_capabilities_are_kept_apart() -> None:
    usable = np.array([[False, True, True], [True, False, True]])
    capable = np.array([[True, True, True], [True, True, False]])
    none = np.full(2, np.nan)
    reasons = find_reasons(
        JobEstimates(QUALITY, COST), JobLimits(none, none, none, usable, capable)
    )
    assert reasons.tolist() == [
        [IneligibilityReason.DENIED, 0, 0],
        [0, IneligibilityReason.DENIED, IneligibilityReason.CAPABILITY],
    ]


def test_an_explanation_names_the_runner_up_and_where_the_choice_would_change() -> None:
    allowed = np.array([[True, True, True], [True, False, True]])
    problem = Problem(QUALITY, COST, allowed, budget_usd=3.0)
    reasons = np.where(allowed, 0, int(IneligibilityReason.LATENCY)).astype(np.uint8)
    solution = solve(problem)
    choice, price = solution.choice.tolist(), solution.shadow_price_per_usd
    told = explain(problem, 0, choice[0], price, NAMES, reasons[0])
    assert [candidate.standing for candidate in told.candidates] == [
        "possible",
        "chosen",
        "runner-up",
    ]
    assert told.with_more_money is not None
    assert told.with_more_money.model == "large"
    assert told.with_more_money.shadow_price_per_usd == pytest.approx(0.05)
    assert told.with_less_money is not None
    assert told.with_less_money.model == "small"
    other = explain(problem, 1, choice[1], price, NAMES, reasons[1]).candidates[1]
    assert other.standing == "ruled out"
    assert other.reasons == ("latency above the job's cap",)


def test_a_job_without_a_model_is_explained_too() -> None:
    problem = Problem(QUALITY, COST, np.array([[False] * 3, [True] * 3]), budget_usd=3.0)
    told = explain(problem, 0, -1, solve(problem).shadow_price_per_usd, NAMES)
    assert {candidate.standing for candidate in told.candidates} == {"ruled out"}
    assert told.with_more_money is told.with_less_money is None


def test_risk_takes_standard_deviations_off_and_stops_at_zero() -> None:
    std = np.array([[0.1, 0.5, 0.0]] * 2, dtype=np.float32)
    assert lower_quality(QUALITY, std, 2.0)[0].tolist() == pytest.approx([0.3, 0.0, 0.9])
    assert risk_of_confidence(0.95) == pytest.approx(1.645, abs=1e-3)


@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.95])
def test_a_conformal_floor_covers_the_stated_share_of_held_out_answers(confidence: float) -> None:
    rng = np.random.default_rng(11)
    truth = rng.random((8_000, 2))
    # One model is overestimated, the other very noisy: the floor must not trust either.
    error = rng.normal([0.2, 0.0], [0.05, 0.3], truth.shape)
    quality = np.clip(truth + error, 0, 1)
    floor = fit_floor(quality[:4_000], truth[:4_000], confidence)
    covered = (truth[4_000:] >= floor.lower(quality[4_000:])).mean(axis=0)
    # The mean of 4,000 trials; calibration adds as much again.
    slack = 4 * np.sqrt(2 * confidence * (1 - confidence) / 4_000)
    assert (covered >= confidence - slack).all()
    assert (floor.lower(quality[4_000:]) >= 0).all()


def test_too_few_graded_answers_promise_nothing() -> None:
    quality = np.full((5, 1), 0.9)
    score = np.array([[1.0], [1.0], [np.nan], [1.0], [1.0]])
    assert fit_floor(quality, score, 0.95).lower(quality).tolist() == [[0.0]] * 5
    assert np.isfinite(fit_floor(quality, score, 0.5).margin).all()
    with pytest.raises(InputError):
        fit_floor(quality, score, 1.0)


def test_an_interval_of_quality_covers_the_graded_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    quality = rng.random(300)
    low, high = quality_interval(quality, np.zeros(300), 0.9)
    means = (rng.random((2_000, 300)) < quality).mean(axis=1)
    assert ((means >= low) & (means <= high)).mean() == pytest.approx(0.9, abs=0.03)
    assert quality_interval(np.ones(4), np.zeros(4), 0.9) == (1.0, 1.0)
    assert quality_interval(np.empty(0), np.empty(0), 0.9) == (0.0, 0.0)
