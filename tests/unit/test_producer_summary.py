"""The arithmetic of the closing screen and of the time left."""

import pytest

from producer.commands.summary import Contender, best_single, gain_over_mix, quality_of_mix
from producer.progress import ScoringRate

MODELS = [(1.0, 0.4), (2.0, 0.45), (5.0, 0.8)]


@pytest.mark.parametrize(
    ("cost_usd", "quality"),
    [(0.5, None), (1.0, 0.4), (3.0, 0.6), (5.0, 0.8), (9.0, 0.8), (None, None)],
)
def test_a_mix_lies_on_the_upper_hull_of_the_models(
    cost_usd: float | None, quality: float | None
) -> None:
    assert quality_of_mix(MODELS, cost_usd) == pytest.approx(quality)


def test_a_mix_of_unknown_models_is_unknown() -> None:
    assert quality_of_mix([], 1.0) is None


ALONE = (
    Contender("cheap", 0.5, 1.0, 0.30, 1.0),
    Contender("middle", 0.4, 2.0, 0.45, 2.0),
    Contender("strong", 0.9, 5.0, 0.80, 5.0),
)


@pytest.mark.parametrize(
    ("routed", "best"),
    [
        (Contender("routed", 0.7, 2.5, 0.6, 2.5), "middle"),  # by grades, where there are any
        (Contender("routed", 0.7, 2.5, 0.6, 5.0), "strong"),  # by what was spent
        (Contender("routed", 0.7, 2.5, 0.6, 0.9), None),
        (Contender("routed", 0.7, 2.5), None),
    ],
)
def test_the_best_single_model_costs_no_more_than_the_routing(
    routed: Contender, best: str | None
) -> None:
    found = best_single(routed, ALONE)
    assert (found and found.name) == best


def test_the_best_single_model_is_told_by_expectation_before_grades() -> None:
    alone = tuple(Contender(one.name, *reversed(one.expected or ())) for one in ALONE)
    found = best_single(Contender("routed", 0.7, 2.5), alone)
    assert found is not None
    assert found.name == "cheap"


def test_the_rate_of_scoring_is_that_of_the_last_minutes() -> None:
    rate = ScoringRate()
    assert rate.add(0.0, 0) is None
    assert rate.add(10.0, 100) == 10.0
    assert rate.add(600.0, 100) is None
    assert rate.add(610.0, 150) == 5.0


def test_the_gain_is_over_the_mix_that_costs_the_same_and_has_an_interval() -> None:
    cheap = {str(n): (float(n % 4 == 0), 1.0) for n in range(100)}
    dear = {str(n): (float(n % 4 != 3), 3.0) for n in range(100)}
    # Each job to the dear model where only that is right, for a mean cost of 2: a mix gets 0.5.
    routed = {job: dear[job] if int(job) % 4 in {1, 2} else cheap[job] for job in cheap}
    gain = gain_over_mix(routed, [cheap, dear])
    assert gain is not None
    assert gain.value == pytest.approx(0.75 - 0.5)
    assert 0.1 < gain.low < gain.value < gain.high < 0.4


def test_a_gain_is_measured_only_on_jobs_that_all_have_graded() -> None:
    routed = {"a": (1.0, 1.0), "b": (0.0, 1.0)}
    gain = gain_over_mix(routed, [{"a": (0.0, 1.0), "c": (1.0, 1.0)}])
    assert gain is not None
    assert (gain.value, gain.low, gain.high) == (1.0, 1.0, 1.0)
    assert gain_over_mix(routed, [{"c": (1.0, 1.0)}]) is None
    assert gain_over_mix(routed, []) is None
