"""Failures in providers' own words, through the real dispatcher."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from routoo.domain.batch_options import CallOptions, OnUnavailable
from routoo.domain.job import SLA
from routoo.store.database import Database
from tests.dispatch_factory import billed_usd, dispatch, pool_of, prepare, rows
from tests.fakes.openai_server import FakeServer

pytestmark = pytest.mark.anyio

ALONE = SLA(allowed_models=("small",))
RESULTS = "SELECT DISTINCT status, model, attempts, error_code FROM results"


async def outcome(
    db: Database,
    *faults: Mapping[str, Any],
    sla: SLA = ALONE,
    count: int = 2,
    large: Sequence[Mapping[str, Any]] = (),
) -> list[tuple[Any, ...]]:
    """Dispatch a batch whose chosen model has faults, and return how its jobs ended."""
    models = {"small": {"faults": list(faults)}, "large": {"faults": list(large)}}
    async with FakeServer({"models": models}) as server:
        options = CallOptions(on_unavailable=OnUnavailable.FALLBACK)
        lease = await prepare(db, pool_of(server), count, sla=sla, call_options=options)
        assert await dispatch(db, lease)
        ((spent_usd,),) = await rows(db, "SELECT spent_usd FROM ledgers")
        assert spent_usd == billed_usd(server)
    return await rows(db, RESULTS)


def ending(reason: str, content: str | None = None) -> dict[str, Any]:
    """Return a patch of an answer that ends for a reason, with a content."""
    choice = {"finish_reason": reason, "message": {"content": content}}
    return {"kind": "patch", "json": {"choices": [choice]}}


@pytest.mark.parametrize(("code", "attempts"), [(402, 2), (503, 3)])
async def test_an_error_inside_a_success_costs_nothing_and_the_next_model_is_asked(
    db: Database, code: int, attempts: int
) -> None:
    error = {"error": {"code": code, "message": "said so"}}
    fault = {"kind": "reply", "status": 200, "json": error}
    found = await outcome(db, fault, sla=SLA())
    assert found == [("succeeded", "large", attempts, None)]
    shown = await rows(db, "SELECT DISTINCT http_status, cost_usd, error_message FROM attempts"
                       " WHERE model = 'small'")  # fmt: skip
    assert [(status, cost) for status, cost, _ in shown] == [(code, 0)]
    assert "said so" in shown[0][2]


async def test_partial_text_of_a_call_that_failed_is_paid_and_is_no_answer(db: Database) -> None:
    fault = {**ending("error", "The answer is"), "first_per_prompt": 1}
    assert await outcome(db, fault) == [("succeeded", "small", 2, None)]
    assert (
        await rows(db, "SELECT DISTINCT answer FROM results WHERE answer = 'The answer is'")
    ) == []


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "RECITATION", "content-filter"])
async def test_a_filter_in_other_words_is_a_filter(db: Database, reason: str) -> None:
    assert await outcome(db, ending(reason)) == [("failed", "small", 1, "content_filter")]


async def test_a_refusal_is_a_filters_and_not_an_empty_answer(db: Database) -> None:
    choice = {"message": {"content": None, "refusal": "I can't help with that."}}
    fault = {"kind": "patch", "json": {"choices": [choice]}}
    assert await outcome(db, fault) == [("failed", "small", 1, "content_filter")]


@pytest.mark.parametrize(
    ("reason", "code"), [("length", "truncated_answer"), ("stop", "empty_answer")]
)
async def test_an_answer_with_nothing_in_it_is_asked_once_more_and_then_elsewhere(
    db: Database, reason: str, code: str
) -> None:
    assert await outcome(db, ending(reason)) == [("failed", "small", 2, code)]
    attempts = await rows(db, "SELECT DISTINCT status, error_code FROM attempts")
    assert attempts == [("failed", code)]


async def test_the_next_model_answers_where_one_says_nothing(db: Database) -> None:
    assert await outcome(db, ending("stop"), sla=SLA()) == [("succeeded", "large", 3, None)]


async def test_a_second_try_may_bring_the_answer(db: Database) -> None:
    fault = {**ending("length"), "first_per_prompt": 1}
    assert await outcome(db, fault) == [("succeeded", "small", 2, None)]


async def test_an_answer_that_its_own_limit_cut_is_an_answer_that_shows_it(db: Database) -> None:
    assert await outcome(db, ending("length", "Half of")) == [("succeeded", "small", 1, None)]
    shown = "SELECT DISTINCT answer, response #>> '{choices,0,finish_reason}' FROM results"
    assert await rows(db, shown) == [("Half of", "length")]


async def test_tools_without_a_text_are_an_answer(db: Database) -> None:
    message = {"content": None, "tool_calls": [{"id": "a", "type": "function"}]}
    choice = {"finish_reason": "tool_calls", "message": message}
    fault = {"kind": "patch", "json": {"choices": [choice]}}
    assert await outcome(db, fault) == [("succeeded", "small", 1, None)]


async def test_a_wait_that_only_the_body_names_is_kept_and_uses_up_no_attempts(
    db: Database,
) -> None:
    models = {"small": {"window": {"calls": 10, "seconds": 1.2}}, "large": {}}
    async with FakeServer({"models": models}) as server:
        lease = await prepare(db, pool_of(server), 30, sla=SLA())
        assert await dispatch(db, lease)
        refused = sum(one.status == 429 for one in server.requests)
        assert len(server.requests) == 30 + refused
        # What keeps the wait calls too early at the ends of two windows, with 8 slots at most.
        assert refused <= 20
    assert await rows(db, "SELECT DISTINCT status, model, error_code FROM results") == [
        ("succeeded", "small", None)
    ]
