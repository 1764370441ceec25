"""How many calls are admitted before a slot is free for them."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.client.limiter.admission import AdmissionQueue, Prefetch, RetryBudget

SECONDS = st.floats(0.0, 100.0)


def settled(ready_s: float, call_s: float) -> Prefetch:
    prefetch = Prefetch()
    for _ in range(500):
        prefetch.note_ready(ready_s)
        prefetch.note_call(call_s)
    return prefetch


def test_before_anything_is_known_a_third_of_the_slots_is_ahead() -> None:
    assert Prefetch().calls(300) == 101


@pytest.mark.parametrize(("ready_s", "call_s", "ahead"), [(0.01, 3.0, 11), (0.01, 0.1, 301)])
def test_the_prefetch_is_the_commits_share_of_a_calls_time(
    ready_s: float, call_s: float, ahead: int
) -> None:
    assert abs(settled(ready_s, call_s).calls(1_000) - ahead) <= 1


@given(SECONDS, SECONDS, st.integers(0, 10_000))
def test_at_least_one_and_never_more_than_the_slots_twice(
    ready_s: float, call_s: float, slots: int
) -> None:
    prefetch = Prefetch()
    prefetch.note_ready(ready_s)
    prefetch.note_call(call_s)
    assert 1 <= prefetch.calls(slots) <= slots + 1


@pytest.mark.anyio
async def test_calls_that_gave_up_are_not_counted_as_waiting() -> None:
    queue = AdmissionQueue[int](RetryBudget(8))
    turns = [asyncio.get_running_loop().create_future() for _ in range(4)]
    for turn in turns:
        queue.add(turn, retry=False)
    turns[1].cancel()  # its shard was put off
    turns[2].set_result(7)  # another endpoint took it
    await asyncio.sleep(0)
    assert queue.waiting == 2
    queue.clear()
    turns[0].cancel()
    turns[3].cancel()
    await asyncio.sleep(0)
    assert queue.waiting == 0
