"""The ledger against a model of it: any order of calls, crashes and repeats keeps the books."""

import asyncio
from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from routoo.domain.job import Stage
from routoo.errors import InputError
from routoo.store import budget, ledger
from routoo.store.database import Database
from routoo.store.lost_calls import write_off
from tests.batch_factory import attempt, claim, reservation, score, select, submit

JOBS = 3
CENTS = st.integers(0, 60)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all examples: the pool of connections belongs to it."""
    with asyncio.Runner() as found:
        yield found


class LedgerMachine(RuleBasedStateMachine):
    """Amounts in cents."""

    runner: asyncio.Runner
    db: Database

    @initialize(limit=st.none() | st.integers(0, 200))
    def submit(self, limit: int | None) -> None:
        self.limit = limit
        self.reserved: dict[tuple[int, int], int] = {}
        self.attempts: dict[tuple[int, int], int] = {}
        self.spent = self.overrun = 0
        self.runner.run(self._submit())

    async def _submit(self) -> None:
        budget = None if self.limit is None else _usd(self.limit)
        self.batch_id = await submit(self.db, JOBS, shard_size=JOBS, budget_usd=budget)
        await score(self.db, self.batch_id)
        await select(self.db, self.batch_id)
        self.lease = await claim(self.db, self.batch_id, Stage.DISPATCH)

    @rule(job=st.integers(0, JOBS - 1), attempt_no=st.integers(1, 3), cents=CENTS)
    def reserve(self, job: int, attempt_no: int, cents: int) -> None:
        key = (job, attempt_no)
        known = key in self.reserved or key in self.attempts
        expected = known or self.limit is None or cents <= self._free()

        assert self.runner.run(self._reserve(key, cents)) == [expected]
        if expected and not known:
            self.reserved[key] = cents

    async def _reserve(self, key: tuple[int, int], cents: int) -> list[bool]:
        async with self.db.transaction() as conn:
            return await ledger.reserve(
                conn, self.lease, [reservation(key[0], _usd(cents), key[1])]
            )

    @rule(data=st.data(), cents=CENTS)
    def settle(self, data: st.DataObject, cents: int) -> None:
        known = sorted(self.reserved | self.attempts)
        if not known:
            return
        key = data.draw(st.sampled_from(known))
        self.runner.run(self._settle(key, cents))
        if key in self.reserved:  # otherwise a repeat, which moves nothing
            self._count(key, cents)

    async def _settle(self, key: tuple[int, int], cents: int) -> None:
        async with self.db.transaction() as conn:
            call = attempt(key[0], _usd(cents), key[1])
            await ledger.settle(conn, self.lease, [call])

    @rule(job=st.integers(0, JOBS - 1), attempt_no=st.integers(1, 3))
    def release(self, job: int, attempt_no: int) -> None:
        self.runner.run(self._release((job, attempt_no)))
        self.reserved.pop((job, attempt_no), None)

    async def _release(self, key: tuple[int, int]) -> None:
        async with self.db.transaction() as conn:
            await ledger.release(conn, self.lease, [key])

    @rule(limit=st.integers(0, 300))
    def set_budget(self, limit: int) -> None:
        committed = sum(self.reserved.values()) + self.spent
        if limit < committed:
            with pytest.raises(InputError):
                self.runner.run(self._set_budget(limit))
        else:
            self.runner.run(self._set_budget(limit))
            self.limit = limit

    async def _set_budget(self, limit: int) -> None:
        async with self.db.transaction() as conn:
            await budget.set_budget(conn, self.batch_id, Decimal(_usd(limit)))

    @rule()
    def write_off(self) -> None:
        assert self.runner.run(self._write_off()) == len(self.reserved)
        for key, worst in list(self.reserved.items()):
            self._count(key, worst)

    async def _write_off(self) -> int:
        async with self.db.transaction() as conn:
            return await write_off(conn, self.lease)

    @invariant()
    def books_add_up(self) -> None:
        if not hasattr(self, "lease"):
            return
        found = self.runner.run(self._balance())
        assert found.reserved_usd == Decimal(sum(self.reserved.values())) / 100
        assert found.spent_usd == Decimal(self.spent) / 100
        assert found.overrun_usd == Decimal(self.overrun) / 100
        if self.limit is not None:
            assert found.reserved_usd + found.spent_usd <= Decimal(self.limit) / 100

    async def _balance(self) -> ledger.Balance:
        async with self.db.transaction() as conn:
            return await ledger.balance(conn, self.batch_id)

    def _count(self, key: tuple[int, int], cents: int) -> None:
        worst = self.reserved.pop(key)
        self.attempts[key] = cents
        self.spent += min(cents, worst)
        self.overrun += max(cents - worst, 0)

    def _free(self) -> int:
        assert self.limit is not None
        return max(0, self.limit - sum(self.reserved.values()) - self.spent - self.overrun)


def test_any_order_of_calls_and_crashes_keeps_the_books(
    database_url: str, runner: asyncio.Runner
) -> None:
    db = runner.run(Database(database_url).__aenter__())
    LedgerMachine.runner, LedgerMachine.db = runner, db
    try:
        run_state_machine_as_test(
            LedgerMachine,
            settings=settings(
                max_examples=15,
                stateful_step_count=12,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        runner.run(db.__aexit__(None, None, None))


def _usd(cents: int) -> str:
    return str(Decimal(cents) / 100)
