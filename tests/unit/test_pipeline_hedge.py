"""When a second call is due."""

from decimal import Decimal

from routoo.domain.endpoint import Endpoint
from routoo.domain.job import SLA, Job, PendingJob
from routoo.domain.pool import CandidateModel, Tariff
from routoo.pipeline.dispatch.hedge import CallLatencies

MODEL = CandidateModel(
    name="small",
    endpoint=Endpoint(base_url="http://localhost:1/v1"),
    price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
    context_window_tokens=1000,
)


def pending(limit_s: float | None) -> PendingJob:
    job = Job(0, "one", {}, SLA(max_latency_s=limit_s))
    return PendingJob(job, "small", (0.5,), (2.0,), 0, Decimal(0))


def test_nothing_is_hedged_before_a_percentile_is_known() -> None:
    latencies = CallLatencies()
    for _ in range(19):
        latencies.note(MODEL, 1.0)
    assert latencies.hedge_after_s(pending(10.0), MODEL) is None


def test_the_latest_calls_count_more_than_what_was_known_before() -> None:
    latencies = CallLatencies({"small": 5.0})
    assert latencies.hedge_after_s(pending(10.0), MODEL) == 5.0
    for number in range(20):
        latencies.note(MODEL, 1.0 + number / 100)
    after_s = latencies.hedge_after_s(pending(10.0), MODEL)
    assert after_s is not None
    assert 1.17 <= after_s <= 1.21


def test_a_hedge_that_would_come_too_late_for_the_limit_is_not_due() -> None:
    latencies = CallLatencies({"small": 5.0})
    assert latencies.hedge_after_s(pending(5.0), MODEL) is None
    assert latencies.hedge_after_s(pending(None), MODEL) is None
