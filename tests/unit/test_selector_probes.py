"""Probes as options: what a policy is worth, which probes are offered, and what limits count."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routoo.selector import Capacity, Problem, solve
from routoo.selector.comparisons import Comparisons, largest
from routoo.selector.policies import SAMPLE_JOBS, Policies, ProbeScreen, extended
from routoo.selector.probe_model import ProbeModel
from routoo.selector.probes import (
    MANY_JOBS,
    NEAR,
    WIDE,
    with_policies,
)
from routoo.selector.second_calls import second_calls

MODELS = 4


@dataclass(frozen=True)
class Outcomes:
    chance: Any
    quality: Any


def judge_of(strength: float, outcomes: int = 6) -> Any:
    """Return a judge whose outcomes are spread by a strength, with the estimate as their mean."""

    def judge(quality: Any, probe: int, models: Any = None, rows: Any = None) -> Outcomes:
        quality = quality if rows is None else quality[rows]
        side = np.linspace(-1, 1, outcomes, dtype=np.float32)
        own = np.where(np.arange(quality.shape[1]) == probe, 1.0, 0.2).astype(np.float32)
        room = np.minimum(quality, 1 - quality)[:, None, :]
        shown = quality[:, None, :] + strength * room * side[:, None] * own
        chance = np.full((len(quality), outcomes), 1 / outcomes, np.float32)
        wanted = np.arange(quality.shape[1]) if models is None else models
        each = np.broadcast_to(wanted.reshape(len(wanted), -1), (len(wanted), len(quality)))
        found = np.take_along_axis(shown.astype(np.float32), each.T[:, None, :], axis=2)
        return Outcomes(chance, found)

    return lambda quality: partial(judge, quality)


def problem_of(jobs: int = 300, *, seed: int = 1, share: float = 0.3) -> Problem:
    rng = np.random.default_rng(seed)
    ease = rng.normal(0, 1.2, (jobs, 1))
    skill = np.linspace(-0.5, 2.0, MODELS)
    quality = 1 / (1 + np.exp(-(ease + skill + rng.normal(0, 0.3, (jobs, MODELS)))))
    cost = np.geomspace(1e-5, 1e-3, MODELS) * rng.lognormal(0, 0.3, (jobs, MODELS))
    budget = cost[:, 0].sum() + share * (cost[:, -1].sum() - cost[:, 0].sum())
    return Problem(quality.astype(np.float32), cost, budget_usd=float(budget))


def known_of(problem: Problem, strength: float = 0.9, **changes: Any) -> ProbeModel:
    def follow(jobs: Any, _probe: int) -> Any:
        return np.ones((len(jobs), MODELS), np.bool_)

    known = ProbeModel(judge_of(strength), (0, 1), problem.quality, problem.cost_usd, follow)
    return replace(known, **changes)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, MODELS - 1), st.floats(1e-2, 1e6))
def test_a_policy_is_worth_what_the_best_use_of_its_judgement_is(
    seed: int, probe: int, price: float
) -> None:
    problem = problem_of(20, seed=seed)
    judged = judge_of(0.8)(problem.quality)(probe)
    follow = np.ones((20, MODELS), np.bool_)
    second = second_calls(judged, probe, problem.cost_usd, follow, price)
    charge = np.where(np.arange(MODELS) == probe, 0.0, price * problem.cost_usd)
    best = (judged.quality - charge[:, None, :]).max(axis=2)
    wanted = (judged.chance * best).sum(axis=1)
    assert np.allclose(second.quality - price * second.cost_usd, wanted, atol=1e-5)
    asked = sum(second.asked(model) for model in range(MODELS))
    assert np.allclose(asked, 1.0, atol=1e-6)


def test_no_policy_is_worth_more_at_a_price_than_the_one_made_for_it() -> None:
    problem = problem_of(50)
    judged, follow = judge_of(0.8)(problem.quality)(0), np.ones((50, MODELS), np.bool_)
    for price in np.geomspace(1, 1e5, 8):
        own, *others = (
            second_calls(judged, 0, problem.cost_usd, follow, made_for)
            for made_for in (price, *np.geomspace(1, 1e5, 8))
        )
        for other in others:
            gain = own.quality - other.quality - price * (own.cost_usd - other.cost_usd)
            assert (gain > -1e-5).all()


def test_judging_buys_more_for_the_same_budget_and_never_spends_more() -> None:
    problem = problem_of()
    more, policies = with_policies(problem, known_of(problem))
    routed, probed = solve(problem), solve(more)
    assert probed.cost_usd <= float(problem.budget_usd or 0)
    assert probed.mean_quality > routed.mean_quality + 0.01
    assert np.count_nonzero(probed.choice >= policies.models) > 30
    assert set(policies.first(probed.choice)) <= {-1, *range(MODELS)}


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_a_few_prices_lose_next_to_nothing_against_many(share: float) -> None:
    problem = problem_of(3000, share=share)
    known = known_of(problem)
    few, _ = with_policies(problem, known)
    pairs = [(probe, price) for probe in (0, 1) for price in np.geomspace(1, 1e6, 150)]
    probes, prices = zip(*pairs, strict=True)
    many = extended(problem, known, Policies(MODELS, probes, tuple(map(float, prices))))
    assert solve(few).quality >= solve(many).bound * (1 - 2e-4)


def test_the_shadow_price_of_a_sample_is_near_that_of_all_jobs() -> None:
    problem = problem_of(30_000)
    more, policies = with_policies(problem, known_of(problem))
    price = solve(more).shadow_price_per_usd
    assert min(policies.price) < price < max(policies.price)
    assert len(policies.price) == len(WIDE) * len(policies.probes)


def test_many_jobs_have_a_column_for_each_price_and_lose_next_to_nothing() -> None:
    problem = problem_of(MANY_JOBS + 1)
    known = known_of(problem)
    few, policies = with_policies(problem, known)
    assert few.options == MODELS + len(NEAR)
    pairs = [(probe, price) for probe in policies.probes for price in policies.prices]
    probes, prices = zip(*pairs, strict=True)
    wide = extended(problem, known, Policies(MODELS, probes, prices))
    solution = solve(few)
    assert solution.quality >= solve(wide).bound * (1 - 5e-5)
    first = policies.first(solution.choice)
    assert set(first[solution.choice >= MODELS]) == {0, 1}
    taken = {probe: jobs for probe, _, jobs in policies.taken(solution.choice) if len(jobs)}
    assert all((first[jobs] == probe).all() for probe, jobs in taken.items())


def test_a_judge_that_tells_nothing_changes_nothing() -> None:
    problem = problem_of()
    same, policies = with_policies(problem, known_of(problem, strength=0.0))
    assert same is problem
    assert policies.probe == ()


def test_models_that_may_not_follow_are_not_asked() -> None:
    problem = problem_of()

    def none(jobs: Any, _probe: int) -> Any:
        return np.zeros((len(jobs), MODELS), np.bool_)

    same, _ = with_policies(problem, known_of(problem, follow=none))
    assert same is problem


def test_a_probe_that_a_job_may_not_ask_is_no_option_of_it() -> None:
    problem = problem_of()
    allowed = np.ones((300, MODELS), np.bool_)
    allowed[::2, :2] = False
    more, policies = with_policies(replace(problem, allowed=allowed), known_of(problem))
    choice = solve(more).choice
    assert (choice[::2] < policies.models).all()
    assert (choice[1::2] >= policies.models).any()


def test_capacities_count_both_calls() -> None:
    problem = problem_of()
    free, policies = with_policies(problem, known_of(problem))
    solution = solve(free)
    last = MODELS - 1
    limit = Capacity("calls of the last", (last,), 40.0)
    more, policies = with_policies(replace(problem, capacities=(limit,)), known_of(problem))
    held = solve(more)
    (counted,) = more.capacities
    assert counted.use is not None
    rows = np.flatnonzero(held.choice >= 0)
    assert counted.use[rows, held.choice[rows]].sum() <= 40.0
    rows = np.flatnonzero(solution.choice >= 0)
    assert counted.use[rows, solution.choice[rows]].sum() > 40.0
    assert policies.probe


def test_an_answer_that_serves_many_jobs_is_judged_for_all_of_them() -> None:
    problem = problem_of()
    weight = np.ones(300, np.float32)
    weight[:50] = 20.0
    weighed = replace(problem, quality=problem.quality * weight[:, None])
    known = known_of(problem, weight=weight)
    more, policies = with_policies(weighed, known)
    solution = solve(more)
    assert (solution.choice[:50] != 0).all()  # twenty jobs are worth more than the cheapest
    probed = np.flatnonzero(solution.choice >= policies.models)
    assert (more.quality[probed, solution.choice[probed]] <= weight[probed] + 1e-4).all()


def test_a_model_that_fails_keeps_the_probes_answer() -> None:
    problem = problem_of(20)
    judged, follow = judge_of(0.8)(problem.quality)(0), np.ones((20, MODELS), np.bool_)
    answered = np.array([1, 0.5, 0.5, 0.5], np.float32)
    sure = second_calls(judged, 0, problem.cost_usd, follow, 1.0)
    doubtful = second_calls(judged, 0, problem.cost_usd, follow, 1.0, answered)
    assert (doubtful.quality <= sure.quality + 1e-6).all()
    assert (doubtful.quality >= problem.quality[:, 0] - 1e-5).all()


def agreement_of(strength: float) -> Comparisons:
    """Return a second model whose answer agrees as often as the probe's is good, or tells less."""

    def expect(_probe: int, _second: int, _models: Any, quality: Any) -> Outcomes:
        own = quality[0].T  # jobs x outcomes
        chance = np.stack([own, 1 - own], axis=-1).astype(np.float32)
        shown = np.repeat(quality.T[:, :, None, :], 2, axis=2).astype(np.float32)
        for outcome, better in enumerate((1 - own, -own)):
            shown[:, :, outcome, 0] += strength * better
        return Outcomes(chance, shown)

    def may(jobs: Any, _probe: int, _second: int) -> Any:
        return np.asarray(jobs) % 10 > 0

    return Comparisons(expect, may, {0: (1,)})


def test_a_second_answer_is_compared_where_that_spares_a_dear_call() -> None:
    problem = problem_of()
    alone = known_of(problem, 0.3, probes=(0,))
    both = replace(alone, comparisons=agreement_of(1.0))
    more, policies = with_policies(problem, both)
    assert policies.seconds == {0: (1,)}
    compared, judged = solve(more), solve(with_policies(problem, alone)[0])
    assert compared.mean_quality > judged.mean_quality + 0.01
    assert compared.cost_usd <= float(problem.budget_usd or 0)
    (probe, price, jobs) = max(policies.taken(compared.choice), key=lambda taken: len(taken[2]))
    second = both.of_jobs(jobs).outcomes(probe).at_price(price)
    (calls,) = second.compared
    assert (calls.asked[jobs % 10 == 0] == 0).all()
    assert calls.asked.max() == pytest.approx(1.0, abs=1e-5)
    asked = sum(second.asked(model) for model in range(MODELS)) + calls.asked
    assert np.allclose(asked, 1.0, atol=1e-5)
    third = sum(calls.third(model) for model in range(MODELS))
    assert (third <= calls.asked + 1e-5).all()
    costs = problem.cost_usd[jobs]
    counted = costs[:, 1] * calls.asked + sum(
        costs[:, model] * (calls.third(model) + (second.asked(model) if model else 0))
        for model in range(MODELS)
    )
    assert np.allclose(second.cost_usd, counted, rtol=1e-4)
    assert np.allclose(second.expected(costs), counted, rtol=1e-4)


def test_a_second_answer_that_tells_nothing_is_not_compared() -> None:
    problem = problem_of()
    known = known_of(problem, comparisons=agreement_of(0.0))
    _, policies = with_policies(problem, known)
    assert policies.probe
    assert not any(policies.seconds.values())


def test_many_jobs_compare_second_answers_too() -> None:
    problem = problem_of(MANY_JOBS + 1)
    known = known_of(problem, 0.3, probes=(0,), comparisons=agreement_of(1.0))
    more, policies = with_policies(problem, known)
    assert (more.options, policies.seconds) == (MODELS + len(NEAR), {0: (1,)})
    wide = replace(policies, own=None)
    every = solve(extended(problem, known, wide))
    assert solve(more).quality >= every.bound * (1 - 1e-3)


def test_a_comparison_of_the_first_models_answers_knows_two_other_models() -> None:
    known = known_of(problem_of(30), 0.3, probes=(0,), comparisons=agreement_of(1.0))
    (comparison,) = known.of_jobs(np.arange(30)).outcomes(0, 100.0).comparisons
    assert (np.sort(comparison.order, axis=0) == np.arange(MODELS)[:, None]).all()


def screened(problem: Problem, known: ProbeModel, allowed: Any, price: float) -> tuple[float, Any]:
    """Return the mean worth lost by looking only at a screen's probes, and those, by column."""
    screen = ProbeScreen.fit(known, (0, 1), price)
    assert screen is not None
    expected = known.of_jobs(np.arange(problem.jobs))
    kept = screen.candidates(expected, allowed)
    worth = np.stack(
        [
            expected.outcomes(probe, price).kept(price) * known.served(probe)
            - price * problem.cost_usd[:, probe]
            for probe in (0, 1)
        ]
    )
    worth[~allowed[:, :2].T] = -np.inf
    answered = 1 if known.answered is None else known.answered
    each = problem.quality * answered - price * problem.cost_usd
    direct = np.where(allowed, each, -np.inf).max(axis=1)
    best, found = np.maximum(worth.max(axis=0), direct), direct.copy()
    for row, rows in zip(worth, kept.values(), strict=True):
        found[rows] = np.maximum(found[rows], row[rows])
    return float((best - found).mean()), kept


def test_a_screen_leaves_out_few_probes_that_are_the_best_and_many_that_are_not() -> None:
    problem = problem_of(3 * SAMPLE_JOBS)
    allowed = np.ones_like(problem.quality, bool)
    allowed[::5, 0] = False
    known = known_of(problem, follow=lambda jobs, _probe: allowed[jobs])
    lost, kept = screened(problem, known, allowed, 1000.0)
    assert lost < 1e-4
    assert sum(map(len, kept.values())) < 0.8 * 2 * problem.jobs
    assert allowed[kept[0], 0].all()


def with_dear_probes(jobs: int) -> Problem:
    problem = problem_of(jobs)
    dearer = np.where(np.arange(MODELS) < 2, 30.0, 1.0)
    return replace(problem, cost_usd=problem.cost_usd * dearer)


def test_a_screen_does_not_ask_a_model_directly_that_may_only_follow() -> None:
    problem = with_dear_probes(3 * SAMPLE_JOBS)
    allowed = np.zeros_like(problem.quality, bool)
    allowed[:, :2] = True
    lost, _ = screened(problem, known_of(problem), allowed, 1000.0)
    assert lost < 1e-4


def test_a_screen_knows_that_the_model_that_looks_best_answers_few_jobs() -> None:
    problem = with_dear_probes(3 * SAMPLE_JOBS)
    answered = np.array([1, 1, 0.5, 0.5], np.float32)
    allowed = np.ones_like(problem.quality, bool)
    lost, _ = screened(problem, known_of(problem, answered=answered), allowed, 1000.0)
    assert lost < 1e-4


def test_few_jobs_are_not_screened() -> None:
    assert ProbeScreen.fit(known_of(problem_of(SAMPLE_JOBS)), (0, 1), 100.0) is None


def plainly(
    problem: Problem, known: ProbeModel, probes: tuple[int, ...], prices: tuple[float, float]
) -> tuple[Any, Any]:
    """Return what each job's best probe is worth at two prices, computed job after job.

    Of the models that may be asked next, the two that look best between the prices count.
    """
    middle, found, first = sum(prices) / 2, [], []
    for job in range(problem.jobs):
        quality, cost = known.quality[job], known.cost_usd[job]
        expect = known.judge(quality[None])
        options = []
        for probe in probes:
            value = {one: quality[one] - middle * cost[one] for one in range(MODELS)}
            rivals = sorted(set(range(MODELS)) - {probe}, key=lambda one: -value[one])[:2]
            judged = expect(probe, np.array([probe, *rivals]))
            charge = np.array([0, *cost[rivals]])
            worth = [
                sum(
                    chance * max(shown - price * charge)
                    for chance, shown in zip(judged.chance[0], judged.quality[0], strict=True)
                )
                - price * cost[probe]
                for price in (middle, *prices)
            ]
            options.append((worth[0], probe, worth[1:]))
        best = max(options, key=lambda option: option[0])
        first.append(best[1])
        found.append(best[2])
    return np.array(first), np.array(found)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(10, 1e5))
def test_many_jobs_at_once_are_worth_what_each_is_by_itself(seed: int, price: float) -> None:
    problem = problem_of(25, seed=seed)
    known, prices = known_of(problem), (price * NEAR[0], price * NEAR[1])
    pairs = [(probe, one) for probe in (0, 1) for one in prices]
    probes, each = zip(*pairs, strict=True)
    policies = Policies(MODELS, probes, each, own=np.zeros(25, np.int16))
    more = extended(problem, known, policies)
    first, wanted = plainly(problem, known, (0, 1), prices)
    worth = more.quality[:, MODELS:] - np.array(prices) * more.cost_usd[:, MODELS:]
    assert policies.own is not None
    same = policies.own == first  # of two probes that are worth the same, either counts
    assert same.mean() > 0.9
    assert np.allclose(worth[same], wanted[same], atol=2e-5, rtol=2e-5)
    assert np.array_equal(more.quality[:, :MODELS], problem.quality)
    assert np.array_equal(more.cost_usd[:, :MODELS], problem.cost_usd)


@given(st.integers(1, 12), st.integers(0, 10_000))
def test_the_largest_value_and_its_place_are_found(places: int, seed: int) -> None:
    value = np.random.default_rng(seed).normal(size=(places, 3, 7)).astype(np.float32)
    place, best = largest(value.copy())
    assert np.array_equal(place, value.argmax(axis=0))
    assert np.allclose(best, value.max(axis=0), rtol=1e-5)
