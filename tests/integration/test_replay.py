"""The replay server answers as was recorded, and counts what was not as plans do."""

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from routoo.cli.replay import Replay, application
from routoo.domain.completion import RecordedAnswer
from routoo.domain.items import Item
from routoo.domain.prompt import estimate_text_tokens
from routoo.domain.tables import Outcomes
from routoo.evaluation.graders.grade import SCORE_KEY, grade_recorded

pytestmark = pytest.mark.anyio

BODY = {"model": "small", "messages": [{"role": "user", "content": "How many legs has a cat?"}]}


def replay(prompt_tokens: float) -> Replay:
    """Return the recording of one answer."""
    one = np.ones(1, np.float32)
    outcomes = Outcomes(
        ["cat"], ["small"], 0.25 * one, prompt_tokens * one, 7 * one, 1e-5 * np.ones(1), one
    )
    return Replay(outcomes, [Item("cat", "How many legs has a cat?")])


@pytest.mark.parametrize(
    ("recorded", "told"), [(311.0, 311), (float("nan"), estimate_text_tokens(BODY))]
)
async def test_usage_is_what_was_recorded_or_else_what_a_plan_expects(
    recorded: float, told: int
) -> None:
    async with TestClient(TestServer(application(replay(recorded)))) as client:
        answer = await (await client.post("/v1/chat/completions", json=BODY)).json()
    assert answer["usage"] == {
        "prompt_tokens": told,
        "completion_tokens": 7,
        "total_tokens": told + 7,
    }
    assert grade_recorded(answer["choices"][0]["message"]["content"]).score == 0.25


async def test_what_was_not_recorded_is_refused() -> None:
    async with TestClient(TestServer(application(replay(1)))) as client:
        answer = await client.post("/v1/chat/completions", json=BODY | {"model": "large"})
    assert answer.status == 404


async def test_a_recorded_text_is_served_instead_of_the_score() -> None:
    one = np.ones(1, np.float32)
    outcomes = Outcomes(["cat"], ["small"], one, one, one, one.astype(np.float64), one)
    said = RecordedAnswer("cat", "small", "Four.", "length")
    served = Replay(outcomes, [Item("cat", "How many legs has a cat?")], [said])
    async with TestClient(TestServer(application(served))) as client:
        answer = await (await client.post("/v1/chat/completions", json=BODY)).json()
    assert answer["choices"][0]["message"]["content"] == "Four."
    assert grade_recorded("Four.", str(answer[SCORE_KEY])).score == 1
    assert answer["choices"][0]["finish_reason"] == "length"
