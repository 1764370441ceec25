"""How long a job waits for a model whose endpoints take no calls."""

import pytest

from routoo.domain.absence import Absence, AbsenceReason, Patience
from routoo.domain.batch_options import OnUnavailable

FALLBACK = Patience(OnUnavailable.FALLBACK)


def away(lasted_s: float) -> Absence:
    return Absence(AbsenceReason.UNAVAILABLE, lasted_s)


def paused(rest_s: float) -> Absence:
    return Absence(AbsenceReason.RATE_LIMITED, 0.0, rest_s)


@pytest.mark.parametrize(
    ("patience", "absence", "left_s", "waits"),
    [
        (Patience(), away(899), None, True),
        (Patience(), away(901), None, False),
        (Patience(), away(3000), 7200, True),  # as long as the deadline allows
        (Patience(), away(3000), 59, False),  # a minute is left for another model
        (Patience(), away(8), 2.1, True),
        (Patience(), away(8), 1.9, False),
        (Patience(patience_s=30), away(31), 7200, False),
        (Patience(patience_s=30), away(29), None, True),
        (Patience(), paused(3600), None, False),
        (Patience(), paused(600), None, True),
        (Patience(), paused(3600), 1800, False),
        (Patience(), paused(3600), 7200, True),
        (FALLBACK, away(0.1), None, False),
        (FALLBACK, paused(5), None, True),
        (FALLBACK, paused(60), None, False),
    ],
)
def test_a_job_waits_as_long_as_patience_and_deadline_allow(
    patience: Patience, absence: Absence, left_s: float | None, *, waits: bool
) -> None:
    assert patience.waits(absence, left_s, has_other=True) is waits


@pytest.mark.parametrize(
    ("patience", "absence", "left_s", "ends_s"),
    [
        (Patience(), away(100), None, 800),
        (Patience(), paused(600), None, 600),
        (Patience(patience_s=30), away(10), None, 20),
        (Patience(), away(0), 100, 80),
        (Patience(), away(100), 3600, 3540),
    ],
)
def test_a_wait_ends_with_pause_or_patience_and_leaves_time_for_another_model(
    patience: Patience, absence: Absence, left_s: float | None, ends_s: float
) -> None:
    assert patience.ends_s(absence, left_s, has_other=True) == pytest.approx(ends_s)


def test_a_job_that_only_one_model_may_answer_waits_until_its_deadline() -> None:
    assert Patience().waits(away(100), 0.5, has_other=False)
    assert FALLBACK.waits(away(100), None, has_other=False)
    assert not Patience().waits(away(901), None, has_other=False)


@pytest.mark.parametrize(
    ("patience", "lasted_s", "left_s", "rest_s"),
    [
        (Patience(), 0, None, 900),
        (Patience(patience_s=3), 1, None, 2),
        (Patience(patience_s=3), 4, None, 0),
        (Patience(patience_s=30), 0, 10, 8),
        (FALLBACK, 4, None, 6),
        (FALLBACK, 12, None, -2),
    ],
)
def test_a_model_that_answers_with_rate_limits_alone_is_asked_as_long_as_patience_lasts(
    patience: Patience, lasted_s: float, left_s: float | None, rest_s: float
) -> None:
    assert patience.limits_s(lasted_s, left_s, has_other=True) == pytest.approx(rest_s)
