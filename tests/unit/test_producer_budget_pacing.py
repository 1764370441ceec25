"""Pacing a budget over jobs that come one group after the other."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.stream import STEP, next_price, share_usd
from routoo.selector import Problem, solve

GROUPS, ROWS = 200, 25


def stream_of(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return quality and cost of jobs on three models, the dearer the better on average."""
    rng = np.random.default_rng(seed)
    ease = rng.beta(2, 2, (GROUPS * ROWS, 1))
    quality = np.clip(ease + [0.0, 0.2, 0.3] * rng.random((GROUPS * ROWS, 3)), 0, 1)
    cost = [1e-4, 1e-3, 1e-2] * rng.lognormal(0, 0.5, (GROUPS * ROWS, 1))
    return quality, cost


def run_online(quality: np.ndarray, cost: np.ndarray, budget_usd: float) -> tuple[float, float]:
    """Choose group by group; a group that no money is left for takes what it can, in order."""
    price, spent, gained = 0.0, 0.0, 0.0
    for group in range(GROUPS):
        rows = slice(group * ROWS, (group + 1) * ROWS)
        left = budget_usd - spent
        solution = solve(
            Problem(
                quality[rows],
                cost[rows],
                budget_usd=left,
                willingness_to_pay_usd=1 / price if price else None,
            ),
            allow_partial=True,
        )
        spent, gained = spent + solution.cost_usd, gained + solution.quality
        planned = {"quality": solution.quality, "cost_usd": solution.cost_usd}
        if solution.cost_usd:
            price = next_price(price, **planned, target_usd=left / (GROUPS - group))
    return gained, spent


@pytest.mark.parametrize("share", [0.05, 0.2, 0.6])
@pytest.mark.parametrize("seed", [0, 1])
def test_online_prices_come_close_to_the_best_choice_in_hindsight(share: float, seed: int) -> None:
    quality, cost = stream_of(seed)
    budget_usd = share * cost[:, 2].sum()
    best = solve(Problem(quality, cost, budget_usd=budget_usd))
    gained, spent = run_online(quality, cost, budget_usd)
    assert spent <= budget_usd
    assert gained >= 0.99 * best.bound


def test_a_price_follows_a_mix_of_jobs_that_changes() -> None:
    quality, cost = stream_of(3)
    half = len(quality) // 2
    cost[half:] *= 4
    budget_usd = 0.1 * cost[:, 2].sum()
    best = solve(Problem(quality, cost, budget_usd=budget_usd))
    gained, spent = run_online(quality, cost, budget_usd)
    assert spent <= budget_usd
    assert gained >= 0.99 * best.bound


@given(st.floats(1e-6, 1e6), st.floats(0, 1e6), st.floats(0, 1e6))
def test_one_group_moves_the_price_by_a_bounded_factor_the_right_way(
    price: float, cost_usd: float, target_usd: float
) -> None:
    moved = next_price(price, quality=1.0, cost_usd=cost_usd, target_usd=target_usd)
    assert abs(math.log(moved / price)) <= STEP + 1e-9
    if target_usd > 0:
        assert (moved > price) == (cost_usd > target_usd) or math.isclose(moved, price)


def test_without_scarcity_a_dollar_has_no_price() -> None:
    assert next_price(0.0, quality=8.0, cost_usd=0.5, target_usd=1.0) == 0.0
    assert next_price(0.0, quality=8.0, cost_usd=2.0, target_usd=1.0) == 4.0


def test_a_share_lets_the_money_last_the_hour_and_leftovers_go_without_haste() -> None:
    hour = {"budget_usd": 1.0, "elapsed_s": 36}
    assert share_usd(1.0, left_s=3600, **hour) == pytest.approx(0.01)
    assert share_usd(1.0, left_s=60, **hour) == pytest.approx(4 * 0.01)
    assert share_usd(-1.0, left_s=3600, **hour) == 0.0
    assert share_usd(0.5, left_s=60, budget_usd=1.0, elapsed_s=36_000) == 0.5
