"""A model's batch channel: who may take it, what goes out together, how answers are read."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.client.provider_batches import batch_format_of, channel_of
from routoo.domain.completion import Completion
from routoo.domain.endpoint import Endpoint
from routoo.domain.job import SLA, Job
from routoo.domain.pool import BatchChannel, CandidateModel, Pool, Tariff
from routoo.domain.pool_file import parse_pool
from routoo.domain.provider_batch import ProviderBatch, ProviderRow
from routoo.errors import ConfigError, EndpointError, InvalidResponseError
from routoo.pipeline.provider_batch.rows import split
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select.capacity import Demand, endpoint_times, finish_time_s
from routoo.pipeline.select.estimates import estimate_calls

POOL_FILE = """\
models:
  - name: large
    endpoint: {base_url: "https://api.test/v1", api_key_env: KEY, requests_per_minute: 10}
    price_usd_per_mtok: {prompt: 2, completion: 8}
    context_window_tokens: 8192
    batch_channel:
      price_usd_per_mtok: {prompt: 1, completion: 4}
      window_h: 24
  - name: small
    endpoint: {base_url: "https://api.test/v1"}
    price_usd_per_mtok: {prompt: 0, completion: 0}
    context_window_tokens: 8192
"""
POOL = parse_pool(POOL_FILE).with_batch_channels()
CHANNEL = POOL.models[1]
FORMAT = batch_format_of(CHANNEL)
BATCH = ProviderBatch("batch_1", "completed", latency_s=60.0)


def chat(text: str = "hi") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def row(number: int, body: dict[str, Any] | None = None) -> ProviderRow:
    return ProviderRow(number, 1, body or chat(), Decimal("0.01"))


def candidate(**channel: Any) -> CandidateModel:
    """Return the batch channel of a model."""
    price = Tariff(prompt=Decimal(1), completion=Decimal(1))
    model = CandidateModel(
        name="m",
        endpoint=Endpoint(base_url="http://localhost:1/v1"),
        price_usd_per_mtok=price,
        context_window_tokens=4096,
        batch_channel=BatchChannel(price_usd_per_mtok=price, **channel),
    )
    return Pool(models=(model,)).with_batch_channels().models[1]


def allowed(*slas: SLA) -> list[list[bool]]:
    jobs = [Job(number, str(number), chat(), sla) for number, sla in enumerate(slas)]
    shape = (len(jobs), len(POOL.models))
    ones = np.ones(shape, np.float32)
    known = estimate_calls(RequestFacts.of(jobs), POOL, ones, ones)
    return known.allowed.tolist()


def test_a_channel_stands_behind_its_model_at_its_own_price_and_is_predicted_as_the_model() -> None:
    assert POOL.names == ("large", "large@batch", "small")
    assert [model.predicted_as for model in POOL.models] == ["large", "large", "small"]
    assert CHANNEL.price_usd_per_mtok == Tariff(prompt=Decimal(1), completion=Decimal(4))
    assert CHANNEL.model_at_endpoint == "large"
    assert CHANNEL.endpoint.api_key_env == "KEY"
    assert CHANNEL.endpoint.requests_per_minute is None
    assert CHANNEL.endpoint_key != POOL.models[0].endpoint_key


def test_a_stored_pool_with_channels_is_the_same_again_and_gets_no_second_ones() -> None:
    again = Pool.model_validate_json(POOL.model_dump_json())
    assert again == POOL == again.with_batch_channels()


def test_a_job_takes_the_channel_only_if_its_limits_leave_the_whole_window() -> None:
    day, now = 86_400.0, datetime.now(UTC)
    patient = [
        SLA(),
        SLA(deadline=now + timedelta(hours=25)),
        SLA(max_latency_s=day),
    ]
    hasty = [
        SLA(deadline=now + timedelta(hours=23)),
        SLA(max_latency_s=day - 1),
        SLA(max_latency_s=2 * day, deadline=now + timedelta(hours=1)),
    ]
    assert allowed(*patient) == [[True, True, True]] * 3
    assert allowed(*hasty) == [[True, False, True]] * 3


def test_a_channels_answers_are_expected_at_the_end_of_its_window() -> None:
    shape = (4, len(POOL.models))
    unknown = Demand(np.full(shape, 100, np.float32), np.full(shape, np.nan, np.float32))
    times = endpoint_times(POOL, np.ones(4, np.int32), unknown, {})
    assert times is not None
    assert finish_time_s(times, 1.0) == pytest.approx(86_400)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("window_h: 24", "window_h: 0", "p.yaml:8: batch_channel.window_h"),
        ("window_h: 24", "window: 24h", "known here are price_usd_per_mtok, window_h, base_url"),
        ("window_h: 24", "base_url: ftp://x", "p.yaml:8: batch_channel.base_url"),
        ("{prompt: 1, completion: 4}", "{prompt: 1}", "say 0 if it is free"),
    ],
)
def test_a_problem_of_a_channel_is_named_with_its_line(old: str, new: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_pool(POOL_FILE.replace(old, new), name="p.yaml")
    assert expected in str(caught.value)


def test_a_row_is_a_line_of_the_protocol_with_the_model_and_a_limit() -> None:
    line = orjson.loads(FORMAT.encode_row(CHANNEL, channel_of(CHANNEL), row(7)))
    assert line == {
        "custom_id": "job-7-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {**chat(), "model": "large", "max_tokens": 1024},
    }
    azure = BatchChannel(price_usd_per_mtok=CHANNEL.price_usd_per_mtok, url_prefix="")
    assert FORMAT.row_url(azure, {"prompt": "x"}) == "/completions"


@given(st.lists(st.tuples(st.integers(0, 600), st.booleans()), max_size=30), st.integers(1, 6))
def test_every_row_that_fits_goes_out_once_within_the_limits(
    shapes: list[tuple[int, bool]], most: int
) -> None:
    model = candidate(max_requests=most, max_file_mb=0.0005)
    sent = [
        row(number, {"prompt": "x" * size} if plain else chat("x" * size))
        for number, (size, plain) in enumerate(shapes)
    ]
    channel = channel_of(model)
    parts = list(split(model, sent))
    for part in parts:
        assert 1 <= len(part) <= most
        assert len({FORMAT.row_url(channel, one.body) for one in part}) == 1
        assert sum(len(FORMAT.encode_row(model, channel, one)) for one in part) <= 500
    fitting = [one.job_no for one in sent if len(FORMAT.encode_row(model, channel, one)) <= 500]
    assert sorted(one.job_no for part in parts for one in part) == fitting


def test_the_first_line_of_a_row_counts_and_what_is_no_line_of_ours_is_passed_over() -> None:
    def line(custom_id: str, text: str) -> bytes:
        body = {"choices": [{"message": {"content": text}}]}
        response = {"status_code": 200, "body": body}
        return orjson.dumps({"custom_id": custom_id, "response": response})

    file = b"\n".join(
        [b"{cut", b"[]", line("other", "no"), line("job-1-1", "yes"), line("job-1-1", "late")]
    )
    found = FORMAT.read_outcomes([file], CHANNEL, BATCH, [row(1), row(2)])
    assert list(found) == ["job-1-1"]
    answer = found["job-1-1"]
    assert isinstance(answer, Completion)
    assert (answer.answer, answer.usage.estimated, answer.latency_s) == ("yes", True, 60.0)


@pytest.mark.parametrize(
    ("fields", "billed"),
    [
        ({"error": {"code": "batch_expired", "message": "too late"}}, False),
        ({"response": {"status_code": 400, "body": {"error": {"message": "bad"}}}}, False),
        ({"response": {"status_code": 429, "body": None}}, False),
        ({"response": {"status_code": "?"}, "error": "odd"}, False),
        ({"response": {"status_code": 504, "body": {}}}, True),
        ({"response": {"status_code": 200, "body": {"choices": []}}}, True),
        ({"response": {"status_code": 200}}, True),
    ],
)
def test_a_row_without_an_answer_says_whether_it_may_be_billed(
    fields: dict[str, Any],
    billed: bool,
) -> None:
    file = orjson.dumps({"custom_id": "job-1-1", **fields})
    error = FORMAT.read_outcomes([file], CHANNEL, BATCH, [row(1)])["job-1-1"]
    assert isinstance(error, EndpointError)
    assert error.maybe_billed is billed
    if fields.get("response", {}).get("status_code") == 200:
        assert isinstance(error, InvalidResponseError)
