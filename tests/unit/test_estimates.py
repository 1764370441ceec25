"""Who may answer a job, and what each would cost."""

from decimal import Decimal
from typing import Any

import numpy as np

from routoo.domain.job import SLA, Job
from routoo.domain.pool import CandidateModel, Endpoint, Pool, Tariff
from routoo.domain.prompt import estimate_prompt_tokens
from routoo.pipeline.estimates import estimate


def candidate(name: str, price: str, window: int = 4096) -> CandidateModel:
    return CandidateModel(
        name=name,
        endpoint=Endpoint(base_url="http://127.0.0.1:9/v1"),
        price_usd_per_mtok=Tariff(prompt=Decimal(price), completion=Decimal(price) * 4),
        context_window_tokens=window,
        max_completion_tokens=100,
    )


POOL = Pool(models=(candidate("small", "1"), candidate("large", "10", window=8192)))
QUALITY = np.array([[0.4, 0.9]], np.float32)
TOKENS = np.array([[50.0, 200.0]], np.float32)


def job(sla: SLA | None = None, **body: Any) -> Job:
    body.setdefault("messages", [{"role": "user", "content": "What is 2 + 2?"}])
    return Job(0, "a", body, sla or SLA())


def test_cost_is_expected_tokens_times_price() -> None:
    one = job()
    prompt = estimate_prompt_tokens(one.body)
    cost = estimate([one], POOL, QUALITY, TOKENS).cost_usd
    np.testing.assert_allclose(cost, [[(prompt + 200) / 1e6, (prompt * 10 + 4000) / 1e6]])


def test_the_requests_own_completion_limit_caps_the_expected_answer() -> None:
    one = job(max_tokens=10)
    prompt = estimate_prompt_tokens(one.body)
    cost = estimate([one], POOL, QUALITY, TOKENS).cost_usd
    np.testing.assert_allclose(cost, [[(prompt + 40) / 1e6, (prompt * 10 + 400) / 1e6]])


def test_a_job_without_limits_may_use_every_model() -> None:
    assert estimate([job()], POOL, QUALITY, TOKENS).allowed.tolist() == [[True, True]]


def test_a_pinned_job_may_use_only_its_model() -> None:
    allowed = estimate([job(model="small")], POOL, QUALITY, TOKENS).allowed
    assert allowed.tolist() == [[True, False]]


def test_a_quality_floor_excludes_weaker_models() -> None:
    allowed = estimate([job(SLA(min_quality=0.5))], POOL, QUALITY, TOKENS).allowed
    assert allowed.tolist() == [[False, True]]


def test_a_cost_cap_is_compared_with_the_worst_case() -> None:
    cap = SLA(max_cost_usd=Decimal("0.0008"))
    allowed = estimate([job(cap)], POOL, QUALITY, TOKENS).allowed
    assert allowed.tolist() == [[True, False]]


def test_prompt_and_completion_limit_must_fit_the_window() -> None:
    allowed = estimate([job(max_tokens=5000)], POOL, QUALITY, TOKENS).allowed
    assert allowed.tolist() == [[False, True]]
