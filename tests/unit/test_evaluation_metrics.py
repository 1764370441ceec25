"""Metrics against values worked out by hand, and routing against known optima."""

import numpy as np
import pytest

from routoo.evaluation.pool_comparison import compare_pool, routing_report
from routoo.evaluation.quality_metrics import auc, brier, ece, mean_metrics, metrics_by_model
from routoo.evaluation.routing import CompleteOutcomes, route
from routoo.statistics import log_budgets, mix_quality

SCORE = np.array([0, 0, 1, 1], np.float32)


def test_auc_is_the_share_of_pairs_in_the_right_order_with_ties_as_halves() -> None:
    assert auc(SCORE, np.array([0.1, 0.4, 0.35, 0.8], np.float32)) == 0.75
    assert auc(SCORE, np.array([0.5, 0.5, 0.5, 0.5], np.float32)) == 0.5


def test_auc_of_one_sided_scores_is_not_a_number_and_leaves_the_mean() -> None:
    score = np.array([[1, 0], [1, 1]], np.float32)
    rows = metrics_by_model(score, np.array([[0.9, 0.2], [0.8, 0.9]], np.float32), ("a", "b"))
    assert np.isnan(rows["a"]["auc"])
    assert mean_metrics(rows)["auc"] == 1.0


def test_figures_of_nothing_are_not_numbers() -> None:
    nothing = np.zeros(0, np.float32)
    assert np.isnan([brier(nothing, nothing), ece(nothing, nothing)]).all()
    rows = metrics_by_model(
        np.full((2, 1), np.nan, np.float32), np.ones((2, 1), np.float32), ("a",)
    )
    assert np.isnan(list(mean_metrics(rows).values())).all()


def test_budgets_are_spaced_by_their_logarithm_and_evenly_where_a_model_is_free() -> None:
    paid, free = log_budgets(np.array([4.0, 1.0, 2.0])), log_budgets(np.array([0.0, 24.0]))
    np.testing.assert_allclose(np.diff(np.log(paid)), np.log(4) / 24)
    np.testing.assert_allclose(free, np.arange(25))


def test_brier_and_ece_of_a_constant_estimate() -> None:
    quality = np.full(4, 0.7, np.float32)
    assert brier(SCORE, quality) == pytest.approx(0.29)
    assert ece(SCORE, quality) == pytest.approx(0.2)


def test_the_mix_lies_on_the_upper_hull_of_the_pool() -> None:
    quality, cost = np.array([0.5, 0.4, 0.9, 0.6]), np.array([1.0, 2.0, 3.0, 2.9])
    mixed = mix_quality(quality, cost, np.array([0.5, 1.0, 2.0, 3.0, 9.0]))
    np.testing.assert_allclose(mixed, [0.5, 0.5, 0.7, 0.9, 0.9])


def _outcomes(items: int = 400) -> CompleteOutcomes:
    generator = np.random.default_rng(0)
    strong = generator.random(items) < 0.5
    score = np.stack([strong, np.ones(items)], axis=1).astype(np.float64)
    cost = np.repeat([[1.0, 10.0]], items, axis=0)
    return CompleteOutcomes(score, cost, cost)


def test_perfect_estimates_reach_full_quality_for_half_of_the_money() -> None:
    outcomes = _outcomes()
    routed = route(outcomes, outcomes.score.astype(np.float32))
    whole = np.full((1, 400), 1 / 400)
    quality = routed.quality(whole)[0]
    spent = (whole @ routed.cost_usd.T)[0]
    assert quality[0] == pytest.approx(outcomes.score[:, 0].mean())
    assert quality[spent > 5.7].min() == pytest.approx(1)
    assert (spent <= outcomes.budgets_usd * (1 + 1e-9)).all()


def test_the_report_gives_the_oracle_all_the_headroom_and_a_blind_router_none() -> None:
    outcomes = _outcomes()
    blind = np.repeat([[0.5, 1.0]], 400, axis=0).astype(np.float32)
    report = routing_report(outcomes, {"blind": blind}, seed=0).frontiers
    assert report["oracle"].headroom.value == pytest.approx(1)
    assert report["oracle"].gain.low > 0.1
    assert abs(report["blind"].headroom.value) < 0.15
    assert report["blind"].aiq.value < report["oracle"].aiq.value


def test_each_budget_names_the_best_single_model_that_costs_no_more() -> None:
    outcomes = _outcomes()
    perfect = outcomes.score.astype(np.float32)
    pool = compare_pool(outcomes, ("weak", "strong"), {"perfect": perfect}, seed=0)
    assert len(pool.budgets) == len(outcomes.budgets_usd)
    for one in pool.budgets:
        single = {"weak": 0, "strong": 1}[one.best_single or ""]
        assert outcomes.cost_usd[:, single].mean() <= one.cost_usd * (1 + 1e-6)
        assert one.best_single_quality == pytest.approx(outcomes.score[:, single].mean())
        wanted = one.quality.value - one.best_single_quality
        assert one.over_single.value == pytest.approx(wanted, abs=0.01)
    assert pool.budgets[0].best_single == "weak"
    assert max(one.over_single.low for one in pool.budgets) > 0.2
