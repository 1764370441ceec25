"""Masks from per-job limits, and explanations of choices."""

from decimal import Decimal

import numpy as np
import pytest

from routoo.domain.job import SLA
from routoo.selector import Problem, solve
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
    explanation = explain(problem, 0, choice[0], price, NAMES, reasons[0])
    assert [candidate.standing for candidate in explanation.candidates] == [
        "possible",
        "chosen",
        "runner-up",
    ]
    assert explanation.with_more_money is not None
    assert explanation.with_more_money.model == "large"
    assert explanation.with_more_money.shadow_price_per_usd == pytest.approx(0.05)
    assert explanation.with_less_money is not None
    assert explanation.with_less_money.model == "small"
    other = explain(problem, 1, choice[1], price, NAMES, reasons[1]).candidates[1]
    assert other.standing == "ruled out"
    assert other.reasons == ("latency above the job's cap",)


def test_a_job_without_a_model_is_explained_too() -> None:
    problem = Problem(QUALITY, COST, np.array([[False] * 3, [True] * 3]), budget_usd=3.0)
    explanation = explain(problem, 0, -1, solve(problem).shadow_price_per_usd, NAMES)
    assert {candidate.standing for candidate in explanation.candidates} == {"ruled out"}
    assert explanation.with_more_money is explanation.with_less_money is None
