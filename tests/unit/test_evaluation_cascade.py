"""Probe and decide: budgets are kept, a good judgement pays, a useless one changes nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routoo.evaluation.cascade import (
    CascadeKnowledge,
    PairKnowledge,
    ProbeKnowledge,
    decide,
    decide_all,
)
from routoo.evaluation.cascade_report import compare_policies, judged_curve
from routoo.evaluation.routing import CompleteOutcomes
from routoo.judge.outcomes import ExpectedJudgements
from routoo.statistics import log_budgets

COSTS = np.array([1.0, 10.0])


def _knowledge(sharpness: float, count: int = 600) -> tuple[CascadeKnowledge, np.ndarray]:
    """Return a cheap model that is right in 6 of 10 cases, judged well or not at all."""
    generator = np.random.default_rng(5)
    right = generator.random(count) < 0.6
    quality = np.tile(np.array([0.6, 0.8], np.float32), (count, 1))
    good, bad = 0.6 + 0.4 * sharpness, 0.6 - 0.6 * sharpness
    judged = quality.copy()
    judged[:, 0] = np.where(right, good, bad)
    outcomes = np.repeat(quality[:, None], 2, axis=1)
    outcomes[:, 0, 0], outcomes[:, 1, 0] = good, bad
    chance = np.tile(np.array([0.6, 0.4], np.float32), (count, 1))
    everywhere = np.ones(count, np.bool_)
    probe = ProbeKnowledge(0, everywhere, ExpectedJudgements(chance, outcomes), judged)
    score = np.stack([right, generator.random(count) < 0.8], axis=1).astype(np.float64)
    return CascadeKnowledge(quality, COSTS, (probe,)), score


def test_a_judgement_that_tells_right_from_wrong_pays() -> None:
    known, score = _knowledge(1.0)
    report = compare_policies(known, score, ("cheap", "strong"), seed=0)
    assert report.gain_difference.low > 0.03
    assert report.points[12].precision > 0.7
    assert report.judgements[0].auc_after == pytest.approx(1.0)
    assert report.points[0].best_model == "cheap"


def test_a_judgement_that_tells_nothing_changes_nothing() -> None:
    known, score = _knowledge(0.0)
    report = compare_policies(known, score, ("cheap", "strong"), seed=0)
    assert report.gain_difference.value == pytest.approx(0, abs=0.01)


def test_a_curve_costs_what_each_items_calls_really_cost() -> None:
    known, score = _knowledge(1.0)
    costs = np.random.default_rng(0).uniform(0.5, 1.5, score.shape) * COSTS
    outcomes = CompleteOutcomes(score, costs, np.broadcast_to(COSTS, score.shape))
    curve = judged_curve(known, outcomes)
    decided = decide(known, float(outcomes.budgets_usd[12]))
    assert 0 < decided.escalated.mean() < 1
    both = costs[:, 0] + np.where(decided.escalated, costs[:, 1], 0)
    np.testing.assert_allclose(curve.cost_usd[12], np.where(decided.first == 0, both, costs[:, 1]))
    np.testing.assert_array_equal(curve.score[12], score[np.arange(len(score)), decided.final])


def test_wrong_answers_are_escalated_and_right_ones_are_kept() -> None:
    known, score = _knowledge(1.0)
    decided = decide(known, 5.5)
    right = score[:, 0] == 1
    assert decided.accepted[right].mean() > 0.99
    assert decided.accepted[~right].mean() < 0.05
    assert set(decided.final[~decided.accepted]) == {1}


def test_items_without_an_answer_are_not_probed() -> None:
    known, _ = _knowledge(1.0)
    (probe,) = known.probes
    answered = np.arange(600) % 2 == 0
    bare = ProbeKnowledge(0, answered, probe.expected, probe.judged)
    decided = decide(CascadeKnowledge(known.quality, COSTS, (bare,)), 4.0)
    assert not decided.probed[~answered].any()
    assert decided.accepted[~answered].all()


def test_a_pool_at_one_price_is_decided_too() -> None:
    known, _ = _knowledge(1.0)
    same = CascadeKnowledge(known.quality, np.array([2.0, 2.0]), known.probes)
    assert decide(same, 2.0).cost_usd(same.cost_usd).mean() == pytest.approx(2.0)


def _agreement(useful: float, count: int = 600) -> tuple[CascadeKnowledge, np.ndarray]:
    """Return a probe whose answer tells nothing but by whether a second cheap one is the same."""
    known, score = _knowledge(0.0, count)
    (probe,) = known.probes
    right = score[:, 0] == 1
    quality = np.repeat(known.quality, [1, 2], axis=1)[:, [0, 1, 1]]
    quality[:, 1] = 0.55
    wide = ExpectedJudgements(probe.expected.chance, np.repeat(quality[:, None], 2, axis=1))
    first = ProbeKnowledge(0, probe.answered, wide, quality)
    good, bad = 0.6 + 0.4 * useful, 0.6 - 0.6 * useful
    judged = quality.copy()
    judged[:, 0] = np.where(right, good, bad)
    outcomes = np.repeat(quality[:, None], 2, axis=1)
    outcomes[:, 0, 0], outcomes[:, 1, 0] = good, bad
    pair = PairKnowledge(
        0,
        1,
        probe.answered,
        np.repeat(probe.expected.chance[:, None], 2, axis=1),
        np.repeat(outcomes[:, None], 2, axis=1),
        ExpectedJudgements(probe.expected.chance, outcomes),
        judged,
    )
    scores = np.stack([score[:, 0], score[:, 0] * 0, score[:, 1]], axis=1)
    return CascadeKnowledge(quality, np.array([1.0, 0.5, 10.0]), (first,), (pair,)), scores


def test_a_second_cheap_answer_is_asked_for_where_agreement_tells_right_from_wrong() -> None:
    known, score = _agreement(1.0)
    decided = decide(known, 5.0)
    compared, right = decided.second == 1, score[:, 0] == 1
    assert compared.mean() > 0.9
    assert decided.escalated[compared & ~right].mean() > 0.8
    assert decided.accepted[compared & right].all()
    costs = decided.cost_usd(known.cost_usd)
    assert costs[compared & right] == pytest.approx(1.5)
    assert costs[decided.escalated].max() == pytest.approx(11.5)
    report = compare_policies(known, score, ("cheap", "second", "strong"), seed=0)
    assert report.cascade_gain.value > report.single_gain.value + 0.02
    assert [row.second for row in report.judgements] == [None, "second"]


def test_a_second_answer_that_tells_nothing_is_not_asked_for() -> None:
    known, _ = _agreement(0.0)
    assert (decide(known, 5.0).second == -1).all()


@given(st.integers(0, 10_000), st.floats(1e-6, 1e3))
@settings(max_examples=12, deadline=None)
def test_no_budget_is_exceeded(seed: int, scale: float) -> None:
    generator = np.random.default_rng(seed)
    count, models, outcomes = 30, 4, 5
    costs = np.sort(generator.uniform(0.1, 10, models)) * scale
    quality = generator.random((count, models), np.float32)
    probes = tuple(
        ProbeKnowledge(
            column,
            generator.random(count) < 0.8,
            ExpectedJudgements(
                generator.dirichlet(np.ones(outcomes), count).astype(np.float32),
                generator.random((count, outcomes, models), np.float32),
            ),
            generator.random((count, models), np.float32),
        )
        for column in (0, 2)
    )
    pair = PairKnowledge(
        1,
        int(generator.integers(0, 2)),
        generator.random(count) < 0.8,
        generator.dirichlet(np.ones(3), (count, outcomes)).astype(np.float32),
        generator.random((count, outcomes, 3, models), np.float32),
        ExpectedJudgements(
            generator.dirichlet(np.ones(3), count).astype(np.float32),
            generator.random((count, 3, models), np.float32),
        ),
        generator.random((count, models), np.float32),
    )
    known = CascadeKnowledge(quality, costs, probes, (pair,))
    budgets = log_budgets(costs)
    for budget, decided in zip(budgets, decide_all(known, budgets), strict=True):
        assert decided.cost_usd(costs).mean() <= budget * (1 + 1e-6)
        assert (decided.accepted | decided.probed).all()
