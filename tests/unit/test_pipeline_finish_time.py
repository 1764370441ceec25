"""When a plan's answers will be there, and what it costs at worst."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.domain.endpoint import Endpoint
from routoo.domain.job import Job
from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.prediction import ModelExperience
from routoo.domain.prompt import bound_completion_tokens, bound_prompt_tokens
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select.capacity import Demand, EndpointTime, endpoint_times, finish_time_s
from routoo.pipeline.select.matrix import CallBounds
from tests.batch_factory import pool_of

JOBS = 120
LATENCY_S = 2.0


def candidate(name: str, **limits: Any) -> CandidateModel:
    endpoint = Endpoint(base_url="http://localhost:1/v1", **limits)
    return pool_of(name).models[0].model_copy(update={"endpoint": endpoint})


def forecast(*models: CandidateModel, tail_factor: float = 1.0) -> list[EndpointTime] | None:
    """Give each model in turn a job; every call takes 2 seconds and 100 tokens."""
    shape = (JOBS, len(models))
    demand = Demand(np.full(shape, 100, np.float32), np.full(shape, LATENCY_S, np.float32))
    choice = (np.arange(JOBS) % len(models)).astype(np.int32)
    known = {model.name: ModelExperience(tail_factor=tail_factor) for model in models}
    return endpoint_times(Pool(models=models), choice, demand, known)


@pytest.mark.parametrize(
    ("limits", "last_s", "slowest"),
    [
        ({"max_concurrency": JOBS}, LATENCY_S, "concurrency"),
        ({"max_concurrency": 4}, JOBS / 4 * LATENCY_S, "concurrency"),
        ({"requests_per_minute": 60}, JOBS + LATENCY_S, "requests per minute"),
        ({"tokens_per_minute": 3000}, 240 + LATENCY_S, "tokens per minute"),
    ],
)
def test_the_slowest_limit_of_an_endpoint_spreads_its_calls(
    limits: dict[str, Any], last_s: float, slowest: str
) -> None:
    times = forecast(candidate("a", **limits))
    assert times is not None
    assert finish_time_s(times, 1.0) == pytest.approx(last_s)
    assert times[0].slowest == slowest


def test_endpoints_work_side_by_side_and_slow_calls_raise_the_mean() -> None:
    times = forecast(
        candidate("fast", max_concurrency=60),
        candidate("slow", max_concurrency=6),
        tail_factor=1.5,
    )
    assert times is not None
    assert finish_time_s(times, 0.5) == pytest.approx(1.5 * LATENCY_S, abs=0.01)
    assert finish_time_s(times, 1.0) == pytest.approx(10 * 1.5 * LATENCY_S)


def test_several_endpoints_of_a_model_share_its_calls() -> None:
    one = candidate("a", max_concurrency=4)
    other = one.endpoint.model_copy(update={"base_url": "http://localhost:2/v1"})
    times = forecast(one.model_copy(update={"endpoints": (other,)}))
    assert times is not None
    assert len(times) == 1
    assert finish_time_s(times, 1.0) == pytest.approx(JOBS / 8 * LATENCY_S)


def test_an_endpoint_that_two_models_share_takes_no_more_than_its_own_limit() -> None:
    shared = candidate("a", max_concurrency=4)
    other = shared.endpoint.model_copy(
        update={"base_url": "http://localhost:2/v1", "max_concurrency": 100}
    )
    both = candidate("b", max_concurrency=4, model="a").model_copy(update={"endpoints": (other,)})
    times = forecast(shared, both)
    assert times is not None
    (time,) = times
    assert time.calls == JOBS
    assert time.spread_s == pytest.approx((JOBS / 2 / 4 - 1) * LATENCY_S)  # of what only "a" has


def test_an_unknown_latency_leaves_the_forecast_out() -> None:
    shape = (3, 1)
    demand = Demand(np.ones(shape, np.float32), np.full(shape, np.nan, np.float32))
    pool = Pool(models=(candidate("a"),))
    assert endpoint_times(pool, np.zeros(3, np.int32), demand, {}) is None
    assert endpoint_times(pool, np.full(3, -1, np.int32), demand, {}) == []


@given(
    times=st.lists(
        st.builds(
            EndpointTime,
            endpoint=st.just("a"),
            calls=st.integers(1, 1000),
            spread_s=st.floats(0, 1e4),
            latency_s=st.floats(0.01, 100),
            slowest=st.just("concurrency"),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_shares_finish_in_order_and_all_by_the_last_answer(times: list[EndpointTime]) -> None:
    half, most, last = (finish_time_s(times, share) for share in (0.5, 0.95, 1.0))
    assert half <= most <= last
    assert last <= max(one.spread_s + one.latency_s for one in times) * (1 + 1e-9)
    assert min(one.latency_s for one in times) <= half * (1 + 1e-9)


def test_the_worst_case_of_a_plan_is_that_of_its_calls() -> None:
    bodies = [
        {"messages": [{"role": "user", "content": "Why?"}]},
        {"messages": [{"role": "user", "content": "Why not?"}], "max_tokens": 7, "n": 3},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    ]
    pool = Pool(models=(candidate("a").model_copy(update={"image_prompt_tokens": 500}),))
    bounds = CallBounds.empty((4, 1))
    asked = [Job(n, f"job-{n}", body) for n, body in enumerate(bodies)]
    bounds.fill(slice(0, 3), RequestFacts.of(asked))
    model = pool.models[0]
    exact = [
        model.cost_usd(bound_prompt_tokens(body, model), bound_completion_tokens(body, model))
        for body in bodies
    ]
    choice = np.array([0, 0, 0, -1], np.int32)
    assert bounds.worst_case_usd(pool, choice) == pytest.approx(float(sum(exact)))
