"""The arithmetic of the closing screen and of the time left."""

import pytest

from producer.progress import ScoringRate
from producer.summary import quality_of_mix

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


def test_the_rate_of_scoring_is_that_of_the_last_minutes() -> None:
    rate = ScoringRate()
    assert rate.add(0.0, 0) is None
    assert rate.add(10.0, 100) == 10.0
    assert rate.add(600.0, 100) is None
    assert rate.add(610.0, 150) == 5.0
