"""What keeps jobs from calls after a probe: prices, caps, prompts with options, deadlines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from routoo.domain.pool import CandidateModel, Endpoint, Pool, Tariff
from routoo.pipeline.select.judged_batch import JudgedBatch, SecondCallLimits

COST_USD = np.array([[1e-4, 1e-5, 1e-2]] * 4)
LATENCY_S = np.array([[1.0, 2.0, 4.0]] * 4, np.float32)
ALL = np.arange(4)


@dataclass(frozen=True)
class Judge:
    """Never asked here."""

    probes: Sequence[str] = ("cheap",)
    pairs: Sequence[tuple[str, str]] = (("cheap", "second"),)

    def judgement_model(self, models: Sequence[str], quality: Any) -> Any:
        raise NotImplementedError

    def pool_agreement(
        self, pool: Sequence[str], both: tuple[int, int], models: Any, quality: Any
    ) -> Any:
        raise NotImplementedError


@pytest.fixture(scope="module")
def pool() -> Pool:
    tariff = Tariff(prompt=Decimal(1), completion=Decimal(1))
    endpoint = Endpoint(base_url="http://127.0.0.1:1/v1")
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                endpoint=endpoint,
                price_usd_per_mtok=tariff,
                context_window_tokens=1000,
            )
            for name in ("cheap", "second", "strong")
        )
    )


def judged(**limits: Any) -> JudgedBatch:
    known = replace(
        SecondCallLimits.empty((4, 3), compares=True), open_prompt=np.ones(4, np.bool_), **limits
    )
    return JudgedBatch(Judge(), np.ones((4, 3), np.bool_), known)


def test_a_cheap_second_answer_to_an_open_prompt_may_be_compared(pool: Pool) -> None:
    batch = judged()
    assert batch.may_compare(pool, COST_USD, ALL, (0, 1)).all()
    assert not batch.may_compare(pool, COST_USD, ALL, (0, 2)).any()  # as dear as what it spares
    closed = judged()
    assert closed.limits.open_prompt is not None
    closed.limits.open_prompt[:2] = False
    assert closed.may_compare(pool, COST_USD, ALL, (0, 1)).tolist() == [False, False, True, True]


def test_a_job_with_a_cap_gets_two_calls_at_most(pool: Pool) -> None:
    capped = np.array([True, False, False, False])
    batch = judged(capped=capped, cap_usd=np.full(4, 9.0))
    assert batch.follow(pool, ALL, 0).all()
    assert batch.may_compare(pool, COST_USD, ALL, (0, 1)).tolist() == [False, True, True, True]


def test_the_deadline_of_each_job_leaves_time_for_all_calls_in_sequence(pool: Pool) -> None:
    left_s = np.array([2.5, 4.5, 6.0, np.inf])
    batch = replace(judged(), latency_s=LATENCY_S, left_s=left_s)
    assert batch.follow(pool, ALL, 0)[:, 2].tolist() == [False, False, True, True]
    assert batch.may_compare(pool, COST_USD, ALL, (0, 1)).tolist() == [False, False, False, True]
