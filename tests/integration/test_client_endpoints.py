"""The client against a real server that fails in every way."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest

from routoo.client.endpoints import ChatEndpoints
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Tariff
from routoo.errors import (
    ConfigError,
    ContextLengthError,
    EndpointDeniedError,
    EndpointError,
    EndpointTimeoutError,
    EndpointUnavailableError,
    InvalidResponseError,
    RateLimitedError,
    RequestRejectedError,
)
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}

FAULTS = {
    "rate_limit": RateLimitedError,
    "status": EndpointUnavailableError,
    "hang": EndpointTimeoutError,
    "slow_headers": EndpointTimeoutError,
    "slow_body": EndpointTimeoutError,
    "reset": InvalidResponseError,
    "half_body": InvalidResponseError,
    "wrong_json": InvalidResponseError,
    "no_choices": InvalidResponseError,
    "context_length": ContextLengthError,
}


def candidate(server: FakeServer, name: str, **endpoint: Any) -> CandidateModel:
    return CandidateModel(
        name=name,
        endpoint=Endpoint(**{"base_url": server.base_url, "timeout_s": 30, **endpoint}),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
        context_window_tokens=1000,
        max_completion_tokens=64,
    )


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that the server does."""
    while not holds():
        await asyncio.sleep(0.01)


@pytest.fixture
async def client() -> AsyncIterator[ChatEndpoints]:
    async with ChatEndpoints(environ={"FAKE_KEY": "s3cret-key"}) as opened:
        yield opened


@pytest.mark.parametrize(("kind", "error"), FAULTS.items())
async def test_every_fault_is_an_error_of_ours_and_the_next_call_is_fine(
    client: ChatEndpoints, kind: str, error: type[EndpointError]
) -> None:
    script = {"models": {"m": {"faults": [{"kind": kind, "first": 1}]}}}
    async with FakeServer(script) as server:
        with pytest.raises(error) as caught:
            await client.complete(candidate(server, "m"), CHAT, timeout_s=1.0)
        assert type(caught.value) is error
        assert server.base_url in str(caught.value)
        assert (await client.complete(candidate(server, "m"), CHAT)).http_status == 200


async def test_an_answer_brings_its_text_body_usage_and_latency(client: ChatEndpoints) -> None:
    async with FakeServer({"models": {"m": {"answer": "It is 4", "latency_s": 0.01}}}) as server:
        completion = await client.complete(candidate(server, "m"), CHAT)
        assert completion.answer == "It is 4"
        assert completion.body["choices"][0]["message"]["content"] == "It is 4"
        served = server.requests[0]
        assert completion.usage.prompt_tokens == served.prompt_tokens
        assert completion.usage.completion_tokens == served.completion_tokens == 3
        assert completion.latency_s >= 0.01


async def test_a_plain_prompt_is_completed_too(client: ChatEndpoints) -> None:
    async with FakeServer({"models": {"m": {"answer": "4"}}}) as server:
        completion = await client.complete(candidate(server, "m"), {"prompt": "2 + 2 ="})
        assert completion.answer == "4"
        assert completion.body["object"] == "text_completion"


async def test_a_request_without_a_limit_goes_out_with_the_models(client: ChatEndpoints) -> None:
    async with FakeServer() as server:
        await client.complete(candidate(server, "m"), CHAT)
        await client.complete(candidate(server, "m"), {**CHAT, "max_completion_tokens": 2})
        assert [served.max_tokens for served in server.requests] == [64, 2]


async def test_missing_usage_is_billed_at_its_bound_and_marked(client: ChatEndpoints) -> None:
    script = {"models": {"m": {"faults": [{"kind": "missing_usage"}]}}}
    async with FakeServer(script) as server:
        usage = (await client.complete(candidate(server, "m"), CHAT)).usage
        served = server.requests[0]
        assert usage.estimated
        assert usage.prompt_tokens >= served.prompt_tokens
        assert usage.completion_tokens >= served.completion_tokens


async def test_a_rate_limit_says_how_long_to_wait(client: ChatEndpoints) -> None:
    fault = {"kind": "rate_limit", "retry_after": "7"}
    async with FakeServer({"models": {"m": {"faults": [fault]}}}) as server:
        with pytest.raises(RateLimitedError) as caught:
            await client.complete(candidate(server, "m"), CHAT)
        assert caught.value.retry_after_s == 7


async def test_the_key_is_sent_and_never_quoted(client: ChatEndpoints) -> None:
    fault = {"kind": "status", "status": 400, "message": "bad header Bearer s3cret-key"}
    script = {"models": {"m": {"api_key": "s3cret-key", "faults": [fault]}}}
    async with FakeServer(script) as server:
        with pytest.raises(RequestRejectedError) as caught:
            await client.complete(candidate(server, "m", api_key_env="FAKE_KEY"), CHAT)
        assert "bad header" in str(caught.value)
        assert "s3cret" not in str(caught.value)


async def test_a_wrong_key_is_a_final_refusal_that_names_the_remedy(client: ChatEndpoints) -> None:
    async with FakeServer({"models": {"m": {"api_key": "other"}}}) as server:
        with pytest.raises(EndpointDeniedError, match="api_key_env"):
            await client.complete(candidate(server, "m", api_key_env="FAKE_KEY"), CHAT)


async def test_a_model_met_later_needs_its_key_as_well(client: ChatEndpoints) -> None:
    async with FakeServer() as server:
        with pytest.raises(ConfigError, match="OTHER_KEY"):
            await client.complete(candidate(server, "m", api_key_env="OTHER_KEY"), CHAT)
        assert server.requests == []


async def test_a_port_where_nobody_listens_is_unavailable(client: ChatEndpoints) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with FakeServer() as server:
        gone = candidate(server, "m", base_url=f"http://127.0.0.1:{port}/v1")
        with pytest.raises(EndpointUnavailableError) as caught:
            await client.complete(gone, CHAT)
        assert not caught.value.maybe_billed


async def test_a_redirect_is_refused_because_it_would_carry_the_key_away(
    client: ChatEndpoints,
) -> None:
    fault = {"kind": "status", "status": 307}
    async with FakeServer({"models": {"m": {"faults": [fault]}}}) as server:
        with pytest.raises(EndpointDeniedError, match="base_url"):
            await client.complete(candidate(server, "m"), CHAT)


async def test_slots_bound_the_calls_in_flight_of_each_endpoint(client: ChatEndpoints) -> None:
    async with FakeServer({"models": {"*": {"latency_s": 0.01}}}) as server:
        models = [candidate(server, "a", max_concurrency=3), candidate(server, "b")]

        async def call(model: CandidateModel) -> None:
            async with client.admit(model, 10) as permit:
                await permit.start()
                await client.complete(permit.model, CHAT)

        await asyncio.gather(*(call(model) for model in models for _ in range(16)))
        most = {name: max(s.in_flight for s in server.requests if s.model == name) for name in "ab"}
        assert most["a"] == 3
        assert most["b"] > 3


async def test_equal_endpoints_share_a_models_load_by_their_room(client: ChatEndpoints) -> None:
    slow, fast = {"models": {"*": {"latency_s": 1.0}}}, {"models": {"*": {"latency_s": 0.02}}}
    async with FakeServer(slow) as one, FakeServer(fast) as other:
        endpoints = [Endpoint(base_url=each.base_url, max_concurrency=4) for each in (one, other)]
        model = candidate(one, "m").model_copy(
            update={"endpoint": endpoints[0], "endpoints": tuple(endpoints)}
        )

        async def call() -> None:
            async with client.admit(model, 10) as permit:
                await permit.start()
                await client.complete(permit.model, CHAT)

        await asyncio.gather(*(call() for _ in range(80)))
        assert len(one.requests) + len(other.requests) == 80
        assert len(other.requests) > 2 * len(one.requests) > 0


async def test_limits_that_an_endpoints_headers_name_are_kept(client: ChatEndpoints) -> None:
    headers = {
        "x-ratelimit-limit-requests": "8",
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-requests": "7.5s",
    }
    async with FakeServer({"models": {"m": {"headers": headers, "latency_s": 0.1}}}) as server:
        model = candidate(server, "m", max_concurrency=1)

        async def call() -> None:
            async with client.admit(model, 10) as permit:
                await permit.start()
                await client.complete(permit.model, CHAT)

        calls = [asyncio.create_task(call()) for _ in range(20)]
        await asyncio.sleep(2.5)  # enough for all of them, were it not for the limit
        assert 1 <= len(server.requests) < 20
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def test_hundreds_of_calls_share_one_session(client: ChatEndpoints) -> None:
    async with FakeServer() as server:
        model = candidate(server, "m", max_concurrency=1000)
        with server.held("m"):
            calls = [asyncio.create_task(client.complete(model, CHAT)) for _ in range(300)]
            await until(lambda: len(server.requests) > 100)
        answers = await asyncio.gather(*calls)
        assert {completion.answer for completion in answers} == {answers[0].answer}
        assert max(served.in_flight for served in server.requests) > 100


async def test_a_cancelled_call_ends_at_the_server_too(client: ChatEndpoints) -> None:
    async with FakeServer({"models": {"m": {"faults": [{"kind": "hang"}]}}}) as server:
        call = asyncio.create_task(client.complete(candidate(server, "m"), CHAT))
        await until(lambda: bool(server.requests))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: server.requests[0].ended_at is not None)


async def test_a_call_before_the_session_is_open_is_a_bug_and_says_so() -> None:
    async with FakeServer() as server:
        with pytest.raises(RuntimeError, match="async with"):
            await ChatEndpoints(environ={}).complete(candidate(server, "m"), CHAT)
