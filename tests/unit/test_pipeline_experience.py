"""What is learned from calls."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.domain.endpoint import Endpoint, ExpectedLatency
from routoo.domain.pool import CandidateModel, Tariff
from routoo.domain.prediction import experience_from_json, experience_to_json
from routoo.domain.prompt import estimate_text_tokens
from routoo.pipeline.select.experience import MIN_CALLS, RECENT_CALLS, fit_experience, fit_line
from routoo.store.model_calls import MeasuredCall

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Where is it?" * 10}]}
OF = (UUID(int=1), datetime(2026, 1, 1, tzinfo=UTC))
EXPECTED = estimate_text_tokens(BODY)


def candidate(declared: ExpectedLatency | None = None) -> CandidateModel:
    return CandidateModel(
        name="small",
        endpoint=Endpoint(base_url="http://localhost:1/v1", expected_latency=declared),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
        context_window_tokens=4096,
    )


def calls(count: int, *, prompt: float = 1.0, completion: float = 1.0) -> list[MeasuredCall]:
    """Return calls whose tokens were this many times the estimates, at 1 s + 0.1 s a token."""
    lengths = 10.0 + np.arange(count) % 7
    return [
        MeasuredCall(
            round(EXPECTED * prompt),
            round(length * completion),
            1.0 + 0.1 * round(length * completion),
            length,
            BODY,
            *OF,
        )
        for length in lengths
    ]


def test_without_calls_the_declared_latency_stands_in() -> None:
    declared = ExpectedLatency(base_s=0.5, per_completion_token_s=0.02)
    known = fit_experience(candidate(declared), [])
    assert (known.base_s, known.per_completion_token_s, known.calls) == (0.5, 0.02, 0)
    assert fit_experience(candidate(), []).base_s is None


def test_few_calls_measure_no_latency() -> None:
    known = fit_experience(candidate(), calls(MIN_CALLS - 1))
    assert (known.base_s, known.latency_p95_s) == (None, None)


def test_measured_latency_replaces_what_was_declared() -> None:
    declared = ExpectedLatency(base_s=9, per_completion_token_s=9)
    known = fit_experience(candidate(declared), calls(MIN_CALLS))
    assert known.base_s == pytest.approx(1.0)
    assert known.per_completion_token_s == pytest.approx(0.1)
    assert known.latency_p95_s == pytest.approx(2.6)


def test_token_corrections_near_the_billed_ratio_as_calls_add_up() -> None:
    few = fit_experience(candidate(), calls(5, prompt=2, completion=3))
    many = fit_experience(candidate(), calls(RECENT_CALLS, prompt=2, completion=3))
    assert 1 < few.prompt_factor < many.prompt_factor < 2
    assert many.prompt_factor == pytest.approx(2, abs=0.1)
    assert many.completion_factor == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("times", [0.1, 10.0])
def test_a_length_that_was_ten_times_off_is_mostly_corrected_when_a_plan_is_checked(
    times: float,
) -> None:
    known = fit_experience(candidate(), calls(MIN_CALLS, completion=times))
    assert abs(math.log(known.completion_factor / times)) < math.log(2)


def test_slow_calls_raise_the_mean_and_not_the_typical_latency() -> None:
    slow = [
        MeasuredCall(1, 10, 100.0 if number % 10 == 0 else 2.0, 10.0, BODY, *OF)
        for number in range(100)
    ]
    known = fit_experience(candidate(), slow)
    assert known.base_s == pytest.approx(2.0)
    assert known.tail_factor == pytest.approx(5.9)


@given(
    st.floats(0, 5),
    st.floats(0, 0.2),
    st.lists(st.integers(1, 500), min_size=30, max_size=60),
    st.floats(0, 1000),
)
def test_a_fit_is_not_bent_by_a_fifth_of_wild_measurements(
    base_s: float, slope_s: float, lengths: list[int], wild_s: float
) -> None:
    tokens = np.arange(len(lengths)) * 500.0 + lengths
    latency_s = base_s + slope_s * tokens
    latency_s[::7] = wild_s
    base, slope = fit_line(tokens, latency_s)
    assert slope == pytest.approx(slope_s, rel=0.3, abs=1e-3 * (1 + slope_s))
    assert base >= 0


def test_lengths_that_another_checkpoint_predicted_correct_nothing() -> None:
    old = [replace(call, same_checkpoint=False) for call in calls(100, prompt=2, completion=3)]
    known = fit_experience(candidate(), old)
    assert known.completion_factor == 1
    assert known.prompt_factor > 1.5
    assert known.base_s == pytest.approx(1)
    both = fit_experience(candidate(), [*old, *calls(100, completion=0.5)])
    assert both.completion_factor < 0.7


def test_a_plan_keeps_experience_as_it_was() -> None:
    known = {"small": fit_experience(candidate(), calls(50))}
    assert experience_from_json(experience_to_json(known)) == known
    assert experience_from_json(None) == {}


def test_what_a_predictor_was_trained_on_stands_for_calls_that_were_not_made_yet() -> None:
    assert fit_experience(candidate(), [], prompt_factor=0.5).prompt_factor == 0.5
    few = fit_experience(candidate(), calls(5, prompt=2, completion=3), prompt_factor=0.5)
    many = fit_experience(
        candidate(), calls(RECENT_CALLS, prompt=2, completion=3), prompt_factor=0.5
    )
    plain = fit_experience(candidate(), calls(RECENT_CALLS, prompt=2, completion=3))
    assert 0.5 < few.prompt_factor < many.prompt_factor < plain.prompt_factor
