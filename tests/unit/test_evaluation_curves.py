"""Cost-quality figures against values worked out by hand; the workings stand in docs/metrics.md."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.evaluation.bootstrap import Interval, bootstrap_weights
from routoo.evaluation.operating_point import RoutedAnswers, by_domain, cost_bins, operating_figures
from routoo.evaluation.pool_comparison import compare_with_reference, weak_strong_figures
from routoo.evaluation.quality_metrics import reliability, wilson
from routoo.evaluation.routing import CompleteOutcomes, matched_round_robin, route
from routoo.statistics import Hull

ONCE = np.full((2, 4), 0.25)
"""Two draws, each the sample of four items itself."""


def test_the_hull_leaves_out_points_that_mixing_its_neighbours_beats() -> None:
    hull = Hull.over(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.2, 0.3, 0.8, 0.7]))
    assert hull.cost_usd.tolist() == [1, 3]
    assert hull.quality_at(np.array([0.5, 2.0, 9.0])).tolist() == pytest.approx([0.2, 0.5, 0.8])


def test_the_least_cost_of_a_quality_is_read_off_the_hull_and_infinite_above_it() -> None:
    hull = Hull(np.array([1.0, 3.0]), np.array([0.2, 0.8]))
    assert hull.cost_at(0.5) == pytest.approx(2)
    assert hull.cost_at(0.1) == 1
    assert hull.cost_at(0.81) == float("inf")
    assert hull.cost_at(np.nextafter(0.8, 1)) == 3


def test_aiq_is_the_mean_height_of_the_hull_with_the_null_router_before_it() -> None:
    hull = Hull(np.array([1.0, 3.0]), np.array([0.2, 0.8]))
    assert hull.aiq(1, 3) == pytest.approx(0.5)
    assert hull.aiq(1, 5) == pytest.approx(0.65)
    assert hull.aiq(0, 1) == pytest.approx(0.1)


@given(
    st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(0, 1)), min_size=1, max_size=12, unique=True)
)
def test_no_point_lies_above_its_hull(points: list[tuple[float, float]]) -> None:
    cost, quality = np.array(points).T
    assert (Hull.over(cost, quality).quality_at(cost) >= quality - 1e-9).all()


def test_apgr_and_cpt_of_four_items_worked_out_by_hand() -> None:
    weak, strong = np.array([0, 0, 1, 1.0]), np.array([1, 1, 1, 1.0])
    # Ranked best: half of the gap after one call, all of it after two.
    best = weak_strong_figures(np.array([4, 3, 2, 1.0]), weak, strong, ONCE)
    assert best.apgr.value == pytest.approx(0.75)
    assert (best.cpt50.value, best.cpt80.value) == pytest.approx((0.25, 0.40))
    worst = weak_strong_figures(np.array([1, 2, 3, 4.0]), weak, strong, ONCE)
    assert worst.apgr.value == pytest.approx(0.25)
    assert (worst.cpt50.value, worst.cpt80.value) == pytest.approx((0.75, 0.90))


def test_a_pair_without_a_gap_has_no_figures() -> None:
    same = np.array([0, 1, 1, 0.0])
    assert np.isnan(weak_strong_figures(same, same, same, ONCE).apgr.value)


def _outcomes() -> CompleteOutcomes:
    """The cheap model fails on half of the items, the strong one on none."""
    score = np.array([[0, 1], [0, 1], [1, 1], [1, 1.0]])
    cost = np.tile([1.0, 3.0], (4, 1))
    return CompleteOutcomes(score, cost, cost)


def test_a_reference_is_matched_at_two_thirds_of_its_cost_by_who_knows_whom_to_ask() -> None:
    outcomes = _outcomes()
    oracle = route(outcomes, outcomes.score.astype(np.float32)).hulls(ONCE)
    beside = compare_with_reference(outcomes, oracle, oracle, 1, ONCE)
    # Cheap answers to half of the items: (2 x 1 + 2 x 3) / 4 = 2 of the reference's 3.
    assert beside.cost_ratio.value == pytest.approx(2 / 3)
    assert beside.gain.value == pytest.approx(0)
    mix = compare_with_reference(outcomes, outcomes.mixes(ONCE), oracle, 1, ONCE)
    assert mix.cost_ratio.value == pytest.approx(1)
    # At 2.25 the mix asks the strong model in 5 of 8 cases: 0.5 + 0.5 x 0.625 = 0.8125.
    assert mix.gain_for_less.value == pytest.approx(-0.1875)
    # Nothing costs three quarters of the cheapest model.
    assert np.isnan(compare_with_reference(outcomes, oracle, oracle, 0, ONCE).gain_for_less.value)


def test_headroom_is_the_share_of_what_the_oracle_gains_at_the_references_cost() -> None:
    score = np.array([[0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 1, 1.0]])
    cost = np.tile([1.0, 2.0, 3.0], (4, 1))
    outcomes = CompleteOutcomes(score, cost, cost)
    oracle = route(outcomes, outcomes.score.astype(np.float32)).hulls(ONCE)
    # At 2 the oracle is always right, the reference in half of the cases, the mix in 0.75.
    assert compare_with_reference(
        outcomes, oracle, oracle, 1, ONCE
    ).headroom.value == pytest.approx(1)
    assert compare_with_reference(
        outcomes, outcomes.mixes(ONCE), oracle, 1, ONCE
    ).headroom.value == pytest.approx(0.5)


def test_the_round_robin_deals_the_routers_shares_out_blindly() -> None:
    outcomes = _outcomes()
    routed = route(outcomes, outcomes.score.astype(np.float32))
    blind = matched_round_robin(outcomes, routed)
    last = routed.choice[-1]
    share = (last == 1).mean()
    assert blind.quality(ONCE)[0, -1] == pytest.approx(0.5 * (1 - share) + share)
    assert blind.spent_usd(ONCE)[0, -1] == pytest.approx(routed.spent_usd(ONCE)[0, -1])


def test_intervals_leave_out_draws_without_the_figure_and_keep_infinite_ones() -> None:
    assert Interval.of(np.array([1, 2, np.nan, np.inf])) == Interval(1, 2, float("inf"))
    weights = bootstrap_weights(400, seed=3)
    interval = Interval.of(weights @ (np.arange(400) < 200).astype(float))
    # The standard error of a share of one half over 400 items is 0.025.
    assert interval.value == pytest.approx(0.5)
    assert interval.low == pytest.approx(0.451, abs=0.015)
    assert interval.high == pytest.approx(0.549, abs=0.015)


def test_the_interval_of_a_figure_that_resampling_raises_is_moved_back_by_as_much() -> None:
    assert Interval.bias_corrected(np.array([2.0, 2, 3, 4, 7])) == Interval(2, 0, 5)
    assert Interval.bias_corrected(np.array([0.5, 1, 2, 3, 4])) == Interval(0.5, 0, 2)


def test_reliability_bins_hold_the_share_of_right_answers_with_wilsons_interval() -> None:
    figures = reliability(
        "m",
        np.array([0.05, 0.05, 0.95, 0.95, 0.5], np.float32),
        np.array([0, 1, 1, 1, np.nan], np.float32),
    )
    assert [part.actual.value for part in figures.bins] == [0.5, 1.0]
    assert figures.answers == 4
    assert figures.ece == pytest.approx(0.25)
    # Wilson's interval of 8 of 10, by his formula.
    assert wilson(0.8, 10).low == pytest.approx(0.4902, abs=1e-4)
    assert wilson(0.8, 10).high == pytest.approx(0.9433, abs=1e-4)


def test_an_operating_point_sets_what_came_beside_what_was_expected() -> None:
    answers = RoutedAnswers(
        ("a", "b"),
        np.array([0, 1, 1, -1]),
        np.array([0.5, 0.9, 0.7, 0.0]),
        np.array([1.0, 2.0, 3.0, 0.0]),
        np.array([1.0, 1.0, 0.0, np.nan]),
        np.array([1.0, 4.0, 4.0, np.nan]),
        np.array([1.0, 2.0, 3.0, np.nan]),
        ("x", "y", "y", None),
    )
    figures = operating_figures(answers, ONCE)
    assert (figures.items, figures.answered, figures.graded) == (4, 3, 3)
    assert figures.quality.value == pytest.approx(2 / 3)
    assert figures.expected_quality == pytest.approx(0.7)
    assert figures.cost_ratio.value == pytest.approx(1.5)
    assert figures.latency_p50_s == 2
    assert [(row.name, row.items) for row in by_domain(answers, ONCE)] == [("y", 2), ("x", 1)]
    assert cost_bins(answers) == ()
