"""Time limits of calls: they end what is late, and nothing else."""

import asyncio

import pytest

from routoo.client.deadlines import Deadlines


async def test_a_call_that_outlasts_its_limit_raises_a_timeout_and_its_task_goes_on() -> None:
    deadlines = Deadlines()
    with pytest.raises(TimeoutError), deadlines.within(0.01):
        await asyncio.sleep(60)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    await asyncio.sleep(0)


async def test_calls_that_ended_are_left_alone_when_the_timer_they_shared_goes_off() -> None:
    deadlines = Deadlines()

    async def call() -> None:
        with deadlines.within(0.02):
            pass
        await asyncio.sleep(0.1)

    await asyncio.gather(*(call() for _ in range(10)))


async def test_a_task_that_somebody_else_cancels_stays_cancelled() -> None:
    deadlines, begun = Deadlines(), asyncio.Event()

    async def call() -> None:
        with deadlines.within(60):
            begun.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(call())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_is_cancelled_and_late_at_once_stays_cancelled() -> None:
    deadlines = Deadlines()

    async def call() -> None:
        with deadlines.within(0.01):
            try:
                await asyncio.sleep(60)
            finally:
                task.cancel()  # somebody else's, in the moment of the timeout

    task = asyncio.create_task(call())
    with pytest.raises(asyncio.CancelledError):
        await task
