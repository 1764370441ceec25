"""Work goes on only while its lease does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from routoo.domain.job import Lease, ShardKey, Stage
from routoo.errors import DatabaseUnavailableError, StaleLeaseError
from routoo.pipeline import shard_work
from routoo.pipeline.shard_work import work_under_lease
from routoo.store.shards import Done, HandedBack, WorkOutcome

LEASE = Lease(ShardKey(UUID(int=1), Stage.SCORE, 0), "me", 1, 0, 10)


class NoDatabase:
    """Opens transactions on nothing."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield


@pytest.fixture
def renewals(monkeypatch: pytest.MonkeyPatch) -> list[Exception | None]:
    """Outcomes of the renewals to come; the last one repeats."""
    outcomes: list[Exception | None] = [None]

    async def renew(*_: object) -> None:
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(shard_work.leases, "renew", renew)
    return outcomes


async def forever(cancelled: asyncio.Event) -> WorkOutcome:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        cancelled.set()
        raise
    return Done()


async def work(
    coroutine: Any,
    *,
    lease_s: float = 0.03,
    stop: asyncio.Event | None = None,
    grace_s: float = 0,
) -> WorkOutcome:
    db: Any = NoDatabase()
    stop = stop or asyncio.Event()
    return await work_under_lease(db, LEASE, coroutine, lease_s=lease_s, stop=stop, grace_s=grace_s)


def test_finished_work_returns_its_answer(renewals: list[Exception | None]) -> None:
    async def quick() -> WorkOutcome:
        await asyncio.sleep(0.05)
        return Done()

    assert asyncio.run(work(quick())) == Done()
    assert renewals == [None]


def test_work_is_cancelled_when_the_lease_is_lost(renewals: list[Exception | None]) -> None:
    renewals[:] = [None, StaleLeaseError("gone")]

    async def scenario() -> bool:
        cancelled = asyncio.Event()
        with pytest.raises(StaleLeaseError):
            await work(forever(cancelled))
        return cancelled.is_set()

    assert asyncio.run(scenario())


def test_a_database_that_stays_away_longer_than_the_lease_costs_the_lease(
    renewals: list[Exception | None],
) -> None:
    renewals[:] = [DatabaseUnavailableError("away")]

    async def scenario() -> None:
        with pytest.raises(StaleLeaseError):
            await work(forever(asyncio.Event()))

    asyncio.run(scenario())


def test_a_short_absence_of_the_database_costs_nothing(
    renewals: list[Exception | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_work, "_RENEWALS_PER_LEASE", 6000)  # the absence is short on any day
    renewals[:] = [DatabaseUnavailableError("away"), None]

    async def slow() -> WorkOutcome:
        while len(renewals) > 1:
            await asyncio.sleep(0.01)
        return Done()

    assert asyncio.run(work(slow(), lease_s=60.0)) == Done()


@pytest.mark.usefixtures("renewals")
def test_a_stop_cancels_work_after_its_grace() -> None:
    async def scenario() -> tuple[WorkOutcome, bool]:
        stop, cancelled = asyncio.Event(), asyncio.Event()
        stop.set()
        done = await work(forever(cancelled), stop=stop, grace_s=0.01)
        return done, cancelled.is_set()

    assert asyncio.run(scenario()) == (HandedBack(), True)


@pytest.mark.usefixtures("renewals")
def test_work_that_ends_within_the_grace_of_a_stop_counts() -> None:
    async def brief() -> WorkOutcome:
        await asyncio.sleep(0.01)
        return Done()

    async def scenario() -> WorkOutcome:
        stop = asyncio.Event()
        stop.set()
        return await work(brief(), stop=stop, grace_s=30)

    assert asyncio.run(scenario()) == Done()


def test_an_error_of_the_work_reaches_the_caller(renewals: list[Exception | None]) -> None:
    async def broken() -> WorkOutcome:
        raise ValueError(renewals)

    with pytest.raises(ValueError, match="None"):
        asyncio.run(work(broken()))
