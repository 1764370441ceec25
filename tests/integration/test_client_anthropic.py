"""Anthropic's API, single calls and batches, against a local server that speaks it."""

from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from routoo.client.endpoints import ChatEndpoints
from routoo.client.failures import error_of_completion
from routoo.client.ping import ping
from routoo.domain.completion import Completion, FinishReason, Usage
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import BatchChannel, CandidateModel, Pool, Tariff
from routoo.errors import (
    ContextLengthError,
    DenialReason,
    EndpointDeniedError,
    EndpointError,
    EndpointUnavailableError,
    RateLimitedError,
    RequestRejectedError,
)
from routoo.store import provider_batches
from routoo.store.database import Database
from tests.dispatch_factory import rows
from tests.fakes.anthropic_server import KEY, FakeAnthropic
from tests.integration.test_provider_channel import _claim_again, finish, prepare, take_turn

pytestmark = pytest.mark.anyio

ENVIRON = {"ANTHROPIC_API_KEY": KEY}
PRICE = Tariff(
    prompt=Decimal(3),
    completion=Decimal(15),
    cached_prompt=Decimal("0.3"),
    cache_write=Decimal("3.75"),
)


@pytest.fixture
async def server() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as running:
        yield running


def model_at(server: FakeAnthropic, **options: Any) -> CandidateModel:
    return CandidateModel(
        name="m",
        endpoint=Endpoint(
            base_url=server.base_url,
            format="anthropic",
            api_key_env="ANTHROPIC_API_KEY",
            timeout_s=5,
        ),
        price_usd_per_mtok=PRICE,
        context_window_tokens=200_000,
        max_completion_tokens=50,
        **options,
    )


async def asked(server: FakeAnthropic, text: str, **body: Any) -> Completion:
    async with ChatEndpoints(environ=ENVIRON) as client:
        return await client.complete(model_at(server), chat(text, **body))


def chat(text: str, **body: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **body}


async def test_an_answer_comes_back_as_a_chat_completion_at_its_price(
    server: FakeAnthropic,
) -> None:
    found = await asked(server, "Why? CACHE")
    assert (found.answer, found.finish_reason) == ("said: Why? CACHE", FinishReason.STOP)
    assert found.usage == Usage(1510, 20, cached_prompt_tokens=1000, cache_write_tokens=500)
    usd = (10 * Decimal(3) + 1000 * Decimal("0.3") + 500 * Decimal("3.75") + 20 * 15) / 1_000_000
    assert found.usage.cost_usd(model_at(server)) == usd
    assert found.body["object"] == "chat.completion"
    assert found.body["usage"]["prompt_tokens"] == 1510


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("CUT", FinishReason.LENGTH),
        ("WINDOW", FinishReason.LENGTH),
        ("DECLINE", FinishReason.CONTENT_FILTER),
        ("PAUSE", FinishReason.ERROR),
    ],
)
async def test_the_ends_of_answers_keep_their_meaning(
    server: FakeAnthropic, word: str, reason: FinishReason
) -> None:
    found = await asked(server, word)
    assert found.finish_reason is reason
    assert (error_of_completion("m", found) is None) == (reason is FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("word", "kind", "facts"),
    [
        ("OVERLOADED", EndpointUnavailableError, {"http_status": 529, "retryable": True}),
        ("LIMITED", RateLimitedError, {"http_status": 429, "retry_after_s": 1.0}),
        ("SPENT", EndpointDeniedError, {"reason": DenialReason.NO_CREDIT}),
        ("LONG", ContextLengthError, {"retryable": False}),
        ("HUGE", RequestRejectedError, {"http_status": 413}),
    ],
)
async def test_errors_keep_their_meaning(
    server: FakeAnthropic, word: str, kind: type[EndpointError], facts: dict[str, Any]
) -> None:
    with pytest.raises(kind) as raised:
        await asked(server, word)
    assert {name: getattr(raised.value, name) for name in facts} == facts
    assert not raised.value.maybe_billed


async def test_tools_and_thinking_come_back(server: FakeAnthropic) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    called = await asked(server, "TOOL", tools=tools)
    (call,) = called.body["choices"][0]["message"]["tool_calls"]
    assert (call["function"], called.finish_reason) == (
        {"name": "add", "arguments": '{"x":1}'},
        FinishReason.TOOL_CALLS,
    )
    thinking = {"type": "enabled", "budget_tokens": 1024}
    thought = await asked(server, "hm", thinking=thinking, max_tokens=2000, temperature=0)
    message = thought.body["choices"][0]["message"]
    assert (message["reasoning_content"], thought.answer) == ("hm", "said: hm")
    again = {"messages": [*chat("hm")["messages"], message, *chat("go on")["messages"]]}
    async with ChatEndpoints(environ=ENVIRON) as client:
        await client.complete(model_at(server), again)
    assert server.requests[-1]["messages"][1]["content"][0]["type"] == "thinking"


@pytest.mark.parametrize("text", ["Why? CACHE", "TOOL", "CUT"])
async def test_a_streamed_answer_is_the_whole_one(server: FakeAnthropic, text: str) -> None:
    body = chat(text, tools=[{"type": "function", "function": {"name": "add"}}])
    async with ChatEndpoints(environ=ENVIRON) as client:
        whole = await client.complete(model_at(server), body)
        async with client.stream(model_at(server), body) as stream:
            chunks = [chunk async for chunk in stream.events()]
            streamed = stream.completion()
    assert len(chunks) > 3
    assert (streamed.answer, streamed.finish_reason) == (whole.answer, whole.finish_reason)
    assert streamed.usage == whole.usage


async def test_a_ping_is_authorized(server: FakeAnthropic) -> None:
    (found,) = await ping([model_at(server)], timeout_s=5, environ=ENVIRON)
    assert found.problem is None
    (found,) = await ping([model_at(server)], timeout_s=5, environ={"ANTHROPIC_API_KEY": "no"})
    assert "invalid x-api-key" in str(found.problem)


def pool_of(server: FakeAnthropic) -> Pool:
    half = Tariff(prompt=Decimal("1.5"), completion=Decimal("7.5"))
    channel = BatchChannel(price_usd_per_mtok=half)
    return Pool(models=(model_at(server, batch_channel=channel),)).with_batch_channels()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


async def results(db: Database) -> list[tuple[Any, ...]]:
    return await rows(db, "SELECT job_no, status, model, answer FROM results ORDER BY job_no")


async def test_rows_of_a_batch_are_answered_or_called_one_by_one(
    db: Database, server: FakeAnthropic
) -> None:
    lease = await prepare(db, pool_of(server), ["a", "ERRORED b", "EXPIRED c", "CANCELED d"])
    await finish(db, lease)
    assert await results(db) == [
        (0, "succeeded", "m@batch", "said: a"),
        (1, "succeeded", "m", "said: ERRORED b"),
        (2, "succeeded", "m", "said: EXPIRED c"),
        (3, "succeeded", "m", "said: CANCELED d"),
    ]
    costs = await rows(
        db, "SELECT model, cost_usd FROM attempts WHERE job_no < 2 ORDER BY cost_usd"
    )
    assert costs == [
        ("m@batch", Decimal(0)),
        ("m@batch", (10 * Decimal("1.5") + 20 * Decimal("7.5")) / 1_000_000),
        ("m", (10 * Decimal(3) + 20 * Decimal(15)) / 1_000_000),
    ]
    assert len(server.batches) == 1
    assert all(len(row["custom_id"]) <= 64 for row in server.batches[0].requests)


async def test_a_creation_whose_answer_was_lost_is_found_by_its_outcomes(
    db: Database, server: FakeAnthropic
) -> None:
    server.lose_creates, server.batch_s = 1, 3600.0
    lease = await prepare(db, pool_of(server), ["a", "b"])
    assert not await take_turn(db, lease)
    lease = await _claim_again(db, lease)
    assert not await take_turn(db, lease)
    (state, provider_id), *_ = await rows(db, "SELECT state, provider_id FROM provider_batches")
    assert (state, provider_id) == ("prepared", None)  # it may be ours, and has not ended
    server.batch_s = 0.0
    await finish(db, await _claim_again(db, lease))
    assert len(server.batches) == 1
    assert [row[1:3] for row in await results(db)] == [("succeeded", "m@batch")] * 2
    async with db.transaction() as conn:
        assert await provider_batches.known(conn, ["msgbatch_1", "x"]) == {"msgbatch_1"}


async def test_batches_of_others_don_t_stand_in_for_a_creation_that_failed(
    db: Database, server: FakeAnthropic
) -> None:
    other = await prepare(db, pool_of(server), ["of another batch", "it too"])
    await finish(db, other)
    server.lose_creates = 1
    lease = await prepare(db, pool_of(server), ["a", "b"])
    assert not await take_turn(db, lease)
    lost = server.batches.pop()
    await finish(db, await _claim_again(db, lease))
    assert [len(batch.requests) for batch in server.batches] == [2, 2]
    assert server.batches[1].requests == lost.requests
