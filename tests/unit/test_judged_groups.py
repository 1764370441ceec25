"""Answers that come together are judged together, and none waits for one that is gone."""

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from routoo.domain.completion import Attempt, Completion, KeptAnswer, Usage
from routoo.domain.job import SLA, Job, PendingJob
from routoo.pipeline.dispatch import judged_groups
from routoo.pipeline.dispatch.judged_groups import GivenAnswer, JudgedGroups

pytestmark = pytest.mark.anyio

NAMES = ("small", "large")


class FakeJudge:
    """Takes every answer for as good as its number says; knows nothing of those that say so."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, int]] = []
        self.error: Exception = ValueError("odd")

    def columns(self, models: Sequence[str]) -> list[int]:
        return [NAMES.index(name) for name in models]

    def spread(self, _models: Sequence[str], quality: Any) -> Any:
        return quality

    def judge(self, probe: str, answers: Sequence[Any]) -> Any:
        if any(one.text == "odd" for one in answers):
            raise self.error
        self.groups.append((probe, len(answers)))
        return np.array([[float(one.text), 0.9] for one in answers], np.float32)


def given(text: str, probe: int = 0) -> GivenAnswer:
    job = Job(0, "zero", {"messages": [{"role": "user", "content": "How many?"}]}, SLA())
    pending = PendingJob(job, NAMES[probe], (0.5, 0.9), (10.0, 10.0), 0, Decimal(0))
    attempt = Attempt(0, 1, NAMES[probe], "succeeded", Decimal(0))
    return GivenAnswer(
        pending, KeptAnswer(attempt, Completion(text, {}, Usage(1, 1), 200, 0.1)), probe
    )


@pytest.fixture
def judge() -> FakeJudge:
    return FakeJudge()


@pytest.fixture
def groups(judge: FakeJudge, monkeypatch: pytest.MonkeyPatch) -> JudgedGroups:
    monkeypatch.setattr(judged_groups, "_MOST_ANSWERS", 3)
    monkeypatch.setattr(judged_groups, "_MOST_CHARACTERS", 100)
    return JudgedGroups(judge, NAMES)  # type: ignore[arg-type]  # a part of a judge


async def judged(groups: JudgedGroups, answers: Sequence[GivenAnswer]) -> list[float | None]:
    async with asyncio.timeout(10):
        await asyncio.gather(*(groups.judge(one) for one in answers))
    return [None if one.whole is None else round(float(one.whole[0]), 3) for one in answers]


async def test_a_full_group_is_judged_at_once_and_the_rest_after_a_while(
    groups: JudgedGroups, judge: FakeJudge
) -> None:
    answers = [given(f"0.{number}") for number in range(1, 6)]
    assert await judged(groups, answers) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert judge.groups == [("small", 3), ("small", 2)]


async def test_models_are_judged_apart(groups: JudgedGroups, judge: FakeJudge) -> None:
    answers = [given("0.1"), given("0.2", 1), given("0.3"), given("0.4", 1)]
    assert await judged(groups, answers) == [0.1, 0.2, 0.3, 0.4]
    assert sorted(judge.groups) == [("large", 2), ("small", 2)]


async def test_a_long_answer_waits_for_no_others(groups: JudgedGroups, judge: FakeJudge) -> None:
    assert await judged(groups, [given("0.1" + "0" * 100), given("0.2")]) == [0.1, 0.2]
    assert judge.groups == [("small", 1), ("small", 1)]


@pytest.mark.parametrize("error", [ValueError("odd"), RecursionError(), AttributeError("no text")])
async def test_an_answer_that_can_not_be_judged_costs_its_group_nothing(
    groups: JudgedGroups, judge: FakeJudge, error: Exception
) -> None:
    judge.error = error
    assert await judged(groups, [given("0.1"), given("odd"), given("0.3")]) == [0.1, None, 0.3]


async def test_a_group_is_judged_though_its_first_answer_is_given_up(groups: JudgedGroups) -> None:
    first = asyncio.create_task(groups.judge(given("0.1")))
    await asyncio.sleep(0)
    other = given("0.2")
    waiting = asyncio.create_task(groups.judge(other))
    await asyncio.sleep(0)
    first.cancel()
    async with asyncio.timeout(10):
        await waiting
    assert other.whole is not None
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await judged(groups, [given("0.3")]) == [0.3]
