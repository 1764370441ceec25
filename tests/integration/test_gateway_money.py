"""A key's money: its batches and single calls together never exceed its limit of a day."""

import asyncio
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
import pytest

from routoo.domain.caller import Scope
from routoo.domain.job import Lease, Stage
from routoo.errors import StoreError
from routoo.store import keys, ledger
from routoo.store.database import Database
from routoo.store.keys import SettledCall
from tests.batch_factory import attempt, claim, reservation, score, select, submit


async def _key(db: Database, usd_per_day: str | None) -> UUID:
    limit = None if usd_per_day is None else Decimal(usd_per_day)
    async with db.transaction() as conn:
        return await keys.add(conn, f"key-{uuid4()}", keys.new_secret(), [Scope.SUBMIT], limit)


async def _dispatching(db: Database, key_id: UUID, jobs: int) -> Lease:
    """Return a dispatch shard of a batch of a key, without a budget of its own."""
    batch_id = await submit(db, jobs, shard_size=jobs)
    async with db.transaction() as conn:
        await conn.execute("UPDATE ledgers SET key_id = %s WHERE batch_id = %s", [key_id, batch_id])
    await score(db, batch_id)
    await select(db, batch_id)
    return await claim(db, batch_id, Stage.DISPATCH)


async def _money(db: Database, key_id: UUID) -> tuple[Decimal, Decimal, Decimal]:
    async with db.transaction() as conn:
        found = await keys.get(conn, key_id)
    return found.reserved_usd, found.spent_usd, found.overrun_usd


async def _reserve(db: Database, lease: Lease, job_no: int, usd: str) -> bool:
    """Reserve as dispatchers do: all in one statement where that may be, else one by one."""
    wanted = [reservation(job_no, usd)]
    async with db.transaction() as conn:
        if (await ledger.reserve_all(conn, lease, wanted)).rowcount:
            return True
        return (await ledger.reserve(conn, lease, wanted))[0]


async def _reserve_single(db: Database, key_id: UUID, usd: str) -> UUID | None:
    call_id = uuid4()
    async with db.transaction() as conn:
        granted = await keys.reserve_call(conn, call_id, key_id, "small", Decimal(usd))
    return call_id if granted else None


def _single(call_id: UUID, key_id: UUID, worst: str, cost: str) -> SettledCall:
    money = (Decimal(worst), "succeeded", Decimal(cost))
    return SettledCall(call_id, key_id, "small", *money, 3, 4, 0.5, None)


async def test_batches_and_calls_of_a_key_never_reserve_more_than_its_limit(
    database_url: str,
) -> None:
    async with Database(database_url, max_size=12) as db:
        key_id = await _key(db, "1.00")
        leases = [await _dispatching(db, key_id, 12) for _ in range(4)]
        most: list[Decimal] = []

        async def watch() -> None:
            while True:
                reserved, spent, _ = await _money(db, key_id)
                most.append(reserved + spent)

        watching = asyncio.create_task(watch())
        granted = await asyncio.gather(
            *(_reserve(db, lease, no, "0.03") for no in range(12) for lease in leases)
        )
        singles = await asyncio.gather(*(_reserve_single(db, key_id, "0.03") for _ in range(12)))
        watching.cancel()

        count = sum(granted) + sum(one is not None for one in singles)
        assert count == 33  # all of it is used, and no cent more
        assert await _money(db, key_id) == (Decimal("0.99"), 0, 0)
        assert max(most) <= 1

        async def settle(lease: Lease, no: int) -> None:
            async with db.transaction() as conn:
                await ledger.settle(conn, lease, [attempt(no, "0.01")])

        pairs = [(lease, no) for no in range(12) for lease in leases]
        done = [pair for pair, yes in zip(pairs, granted, strict=True) if yes]
        await asyncio.gather(*(settle(*pair) for pair in done))
        async with db.transaction() as conn:
            ended = [_single(one, key_id, "0.03", "0.01") for one in singles if one is not None]
            await keys.settle_calls(conn, ended)
            await keys.settle_calls(conn, ended)  # twice moves no money again
        assert await _money(db, key_id) == (0, Decimal("0.33"), 0)


async def test_money_of_a_key_without_a_limit_is_counted(db: Database) -> None:
    key_id = await _key(db, None)
    lease = await _dispatching(db, key_id, 2)

    assert await _reserve(db, lease, 0, "5")
    assert await _reserve(db, lease, 1, "5")
    async with db.transaction() as conn:
        await ledger.release(conn, lease, [(1, 1)])
        await ledger.settle(conn, lease, [attempt(0, "6")])  # a dollar more than its worst case
        await keys.settle_calls(conn, [_single(uuid4(), key_id, "0.2", "0.1")])

    assert await _money(db, key_id) == (0, Decimal("5.1"), 1)


async def test_an_overrun_lowers_what_a_key_may_still_reserve(db: Database) -> None:
    key_id = await _key(db, "1")
    lease = await _dispatching(db, key_id, 2)
    assert await _reserve(db, lease, 0, "0.3")
    async with db.transaction() as conn:
        await ledger.settle(conn, lease, [attempt(0, "0.8")])

    assert not await _reserve(db, lease, 1, "0.3")
    assert await _reserve_single(db, key_id, "0.3") is None
    assert await _reserve(db, lease, 1, "0.2")


async def test_a_new_day_begins_without_what_was_spent_and_with_what_is_reserved(
    db: Database,
) -> None:
    key_id = await _key(db, "1")
    lease = await _dispatching(db, key_id, 3)
    assert await _reserve(db, lease, 0, "0.4")
    assert await _reserve(db, lease, 1, "0.6")
    async with db.transaction() as conn:
        await ledger.settle(conn, lease, [attempt(0, "0.4")])
        await conn.execute("UPDATE key_ledgers SET day = day - 1")

    assert await _money(db, key_id) == (Decimal("0.6"), 0, 0)
    assert not await _reserve(db, lease, 2, "0.5")
    assert await _reserve(db, lease, 2, "0.4")
    async with db.transaction() as conn:
        await ledger.settle(conn, lease, [attempt(1, "0.5")])
    assert await _money(db, key_id) == (Decimal("0.4"), Decimal("0.5"), 0)


async def test_the_database_itself_refuses_money_above_a_keys_limit(db: Database) -> None:
    key_id = await _key(db, "1")
    lease = await _dispatching(db, key_id, 2)

    with pytest.raises(StoreError) as refusal:
        async with db.transaction() as conn:
            await conn.execute(
                "UPDATE ledgers SET reserved_usd = 2 WHERE batch_id = %s", [lease.key.batch_id]
            )

    assert isinstance(refusal.value.__cause__, psycopg.errors.CheckViolation)


async def test_calls_that_a_dead_gateway_left_count_at_their_worst_case(db: Database) -> None:
    key_id = await _key(db, "1")
    assert await _reserve_single(db, key_id, "0.3") is not None
    async with db.transaction() as conn:
        await keys.write_off_calls(conn, 3600)
    assert await _money(db, key_id) == (Decimal("0.3"), 0, 0)
    async with db.transaction() as conn:
        await keys.write_off_calls(conn, -1)
    assert await _money(db, key_id) == (0, Decimal("0.3"), 0)
