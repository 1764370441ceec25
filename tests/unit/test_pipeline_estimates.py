"""Who may answer a job, and what each would cost."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from routoo.domain.endpoint import Endpoint
from routoo.domain.job import SLA, Job
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.prediction import ModelExperience
from routoo.domain.prompt import estimate_text_tokens
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select.estimates import CallEstimates, estimate_calls


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


def estimate(jobs: Sequence[Job], *arguments: Any) -> CallEstimates:
    return estimate_calls(RequestFacts.of(jobs), *arguments)


def test_cost_is_expected_tokens_times_price() -> None:
    one = job()
    prompt = estimate_text_tokens(one.body)
    cost = estimate([one], POOL, QUALITY, TOKENS).cost_usd
    np.testing.assert_allclose(cost, [[(prompt + 200) / 1e6, (prompt * 10 + 4000) / 1e6]])


def test_the_requests_own_completion_limit_caps_the_expected_answer() -> None:
    one = job(max_tokens=10)
    prompt = estimate_text_tokens(one.body)
    cost = estimate([one], POOL, QUALITY, TOKENS).cost_usd
    np.testing.assert_allclose(cost, [[(prompt + 40) / 1e6, (prompt * 10 + 400) / 1e6]])


def test_a_job_without_limits_may_use_every_model() -> None:
    assert estimate([job()], POOL, QUALITY, TOKENS).allowed.tolist() == [[True, True]]


def test_a_job_whose_request_names_a_model_may_use_no_other() -> None:
    allowed = estimate([job(model="small")], POOL, QUALITY, TOKENS).allowed
    assert allowed.tolist() == [[True, False]]


def test_a_quality_floor_excludes_weaker_models() -> None:
    allowed = estimate([job(SLA(min_quality=0.5))], POOL, QUALITY, TOKENS).allowed
    assert allowed.tolist() == [[False, True]]


def test_a_floor_with_confidence_compares_the_estimate_less_its_margin() -> None:
    sure = {"large": ModelExperience(quality_margin=0.5)}
    floor = job(SLA(min_quality=0.5))
    assert estimate([floor], POOL, QUALITY, TOKENS, sure).allowed.tolist() == [[False, False]]
    low = job(SLA(min_quality=0.39))
    assert estimate([low], POOL, QUALITY, TOKENS, sure).allowed.tolist() == [[True, True]]


def test_a_cost_cap_is_compared_with_the_worst_case() -> None:
    cap = SLA(max_cost_usd=Decimal("0.0008"))
    allowed = estimate([job(cap)], POOL, QUALITY, TOKENS).allowed
    assert allowed.tolist() == [[True, False]]


def test_prompt_and_completion_limit_must_fit_the_window() -> None:
    allowed = estimate([job(max_tokens=5000)], POOL, QUALITY, TOKENS).allowed
    assert allowed.tolist() == [[False, True]]


def test_an_image_is_priced_by_those_that_take_it_and_rules_out_the_others() -> None:
    seeing = candidate("large", "10").model_copy(update={"image_prompt_tokens": 1000})
    pool = Pool(models=(POOL.models[0], seeing))
    image = {"type": "image_url", "image_url": {"url": "https://pictures.test/cat.png"}}
    content = [{"type": "text", "text": "What is it?"}, image]
    messages = [{"role": "user", "content": content}]
    blind, shown = job(messages=[{"role": "user", "content": content[:1]}]), job(messages=messages)
    without, found = (estimate([one], pool, QUALITY, TOKENS) for one in (blind, shown))
    assert without.allowed.tolist() == [[True, True]]
    assert found.allowed.tolist() == [[False, True]]
    np.testing.assert_allclose(found.cost_usd[0, 1] - without.cost_usd[0, 1], 1000 * 10 / 1e6)
    capped = job(SLA(max_cost_usd=Decimal("0.01")), messages=messages)  # the image alone costs it
    assert estimate([capped], pool, QUALITY, TOKENS).allowed.tolist() == [[False, False]]


def test_images_take_their_part_of_the_window() -> None:
    seeing = POOL.models[0].model_copy(update={"image_prompt_tokens": 2000})
    image = {"type": "image_url", "image_url": {"url": "https://pictures.test/cat.png"}}
    fits = [
        estimate(
            [job(messages=[{"role": "user", "content": [image] * count}])],
            Pool(models=(seeing,)),
            QUALITY[:, :1],
            TOKENS[:, :1],
        ).allowed.tolist()
        for count in (1, 2)
    ]
    assert fits == [[[True]], [[False]]]
