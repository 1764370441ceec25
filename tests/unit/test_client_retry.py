"""When a call is made again."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.client.failures import CAP_S, PATIENCE_S, backoff_s, call_with_retries
from routoo.domain.absence import Absence, AbsenceReason
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import Completion, FinishReason, Usage
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import CandidateModel, Tariff
from routoo.errors import (
    ContentFilterError,
    EmptyAnswerError,
    EndpointClosedError,
    EndpointError,
    EndpointUnavailableError,
    RateLimitedError,
    RequestRejectedError,
    TruncatedAnswerError,
)
from tests.fakes.permit import OpenPermit

MODEL = CandidateModel(
    name="m",
    endpoint=Endpoint(base_url="http://endpoint.test/v1"),
    price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
    context_window_tokens=100,
)
seeded = random.Random
DONE = Completion("yes", {}, Usage(1, 1), 200, 0.1)


class ScriptedClient:
    """Fails as told, then answers."""

    def __init__(self, *failures: EndpointError) -> None:
        self.failures = list(failures)
        self.answer = DONE
        self.absence: Callable[[CandidateModel], Absence | None] = lambda _model: None
        self.calls = 0
        self.behaviour = KnownBehaviour()
        self.held = 0

    @asynccontextmanager
    async def admit(
        self, model: CandidateModel, _tokens: int, *, retry: bool = False
    ) -> AsyncIterator[OpenPermit]:
        del retry
        self.held += 1
        try:
            yield OpenPermit(model)
        finally:
            self.held -= 1

    async def complete(
        self, _model: CandidateModel, _body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        assert timeout_s is None
        assert self.held == 1
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.answer


def run(client: ScriptedClient, *, max_attempts: int = 4) -> tuple[Completion, list[float]]:
    waits: list[float] = []

    async def sleep(delay_s: float) -> None:
        assert client.held == 0, "a slot is held during a wait"
        waits.append(delay_s)

    completion = asyncio.run(
        call_with_retries(client, MODEL, {}, max_attempts=max_attempts, sleep=sleep, rng=seeded(0))
    )
    return completion, waits


@given(st.integers(1, 10_000), st.integers())
def test_a_wait_is_never_negative_and_never_above_the_cap(attempt: int, seed: int) -> None:
    assert 0 <= backoff_s(attempt, rng=seeded(seed)) <= CAP_S


@given(st.integers(1, 50), st.floats(0, 86_400), st.integers())
def test_the_endpoints_own_wish_is_a_floor(attempt: int, wish_s: float, seed: int) -> None:
    wait_s = backoff_s(attempt, retry_after_s=wish_s, rng=seeded(seed))
    assert wish_s <= wait_s <= wish_s + CAP_S


@given(st.integers())
def test_the_longest_wait_doubles(seed: int) -> None:
    waits = [backoff_s(attempt, rng=seeded(seed)) for attempt in range(1, 6)]
    assert waits == pytest.approx([waits[0] * 2**doublings for doublings in range(5)])


def test_callers_that_failed_together_do_not_return_together() -> None:
    assert len({backoff_s(3, rng=seeded(seed)) for seed in range(50)}) == 50


def test_a_failure_that_may_pass_is_tried_again() -> None:
    client = ScriptedClient(EndpointUnavailableError("down"), RateLimitedError("slow down"))
    completion, waits = run(client)
    assert completion is DONE
    assert len(waits) == 2


def test_retry_after_is_waited_for() -> None:
    _, waits = run(ScriptedClient(RateLimitedError("slow down", retry_after_s=7)))
    assert waits[0] >= 7


def test_a_refusal_is_final() -> None:
    client = ScriptedClient(RequestRejectedError("no"))
    with pytest.raises(RequestRejectedError):
        run(client)
    assert client.calls == 1


def test_the_last_attempts_failure_is_raised() -> None:
    client = ScriptedClient(*[EndpointUnavailableError(f"down {n}") for n in range(9)])
    with pytest.raises(EndpointUnavailableError, match="down 2"):
        run(client, max_attempts=3)
    assert client.calls == 3


@pytest.mark.parametrize(
    ("reason", "error", "calls"),
    [
        (FinishReason.CONTENT_FILTER, ContentFilterError, 1),
        (FinishReason.TRUNCATED, TruncatedAnswerError, 1),
        (FinishReason.EMPTY, EmptyAnswerError, 3),
    ],
)
def test_a_completion_that_is_no_answer_is_a_failure(
    reason: FinishReason, error: type[EndpointError], calls: int
) -> None:
    client = ScriptedClient()
    client.answer = replace(DONE, answer="", finish_reason=reason)
    with pytest.raises(error):
        run(client, max_attempts=3)
    assert client.calls == calls


@pytest.mark.parametrize(
    ("absence", "waits"),
    [
        (None, True),
        (Absence(AbsenceReason.RATE_LIMITED, 0.0, PATIENCE_S), True),
        (Absence(AbsenceReason.RATE_LIMITED, 0.0, PATIENCE_S + 1), False),
        (Absence(AbsenceReason.UNAVAILABLE, 5.0), False),
        (Absence(AbsenceReason.DENIED, 5.0), False),
    ],
)
def test_a_closed_endpoint_is_waited_for_while_it_asks_for_a_pause_that_can_be_borne(
    absence: Absence | None, *, waits: bool
) -> None:
    client = ScriptedClient(EndpointClosedError("closed"))
    client.absence = lambda _model: absence
    if waits:
        assert run(client)[0] is DONE
    else:
        with pytest.raises(EndpointClosedError):
            run(client)


def test_rate_limits_use_up_no_attempts() -> None:
    client = ScriptedClient(*[RateLimitedError("slow down", retry_after_s=7) for _ in range(20)])
    assert run(client)[0] is DONE
    assert client.calls == 21


def test_an_endpoint_that_only_ever_limits_is_given_up() -> None:
    client = ScriptedClient(*[RateLimitedError("slow down", retry_after_s=60) for _ in range(99)])
    with pytest.raises(RateLimitedError):
        run(client, max_attempts=2)
    assert client.calls < 9


def test_an_endpoint_that_asks_for_hours_is_not_waited_for() -> None:
    client = ScriptedClient(RateLimitedError("come back later", retry_after_s=PATIENCE_S + 1))
    with pytest.raises(RateLimitedError):
        run(client)
