"""Reservations, settlements and results on a real database."""

import asyncio
from decimal import Decimal
from uuid import UUID

import pytest

from routoo.domain.completion import Attempt, Result
from routoo.domain.job import Lease, ResultStatus, Stage
from routoo.errors import NotFoundError, StoreError
from routoo.store import batches, jobs, ledger, results
from routoo.store.batches.progress import ModelShare, progress
from routoo.store.database import Database
from routoo.store.evaluation import grades
from routoo.store.lost_calls import write_off
from tests.batch_factory import (
    attempt,
    claim,
    dispatch,
    reservation,
    result,
    score,
    select,
    submit,
)


async def _dispatching(
    db: Database, jobs: int = 4, *, shard_size: int = 4, budget_usd: str | None = "1.00"
) -> tuple[UUID, Lease]:
    batch_id = await submit(db, jobs, shard_size=shard_size, budget_usd=budget_usd)
    await score(db, batch_id)
    await select(db, batch_id)
    return batch_id, await claim(db, batch_id, Stage.DISPATCH)


async def _reserve(db: Database, lease: Lease, *usd: str) -> list[bool]:
    async with db.transaction() as conn:
        wanted = [reservation(lease.first_job + n, price) for n, price in enumerate(usd)]
        return await ledger.reserve(conn, lease, wanted)


async def _settle(db: Database, lease: Lease, *calls: Attempt) -> None:
    async with db.transaction() as conn:
        await ledger.settle(conn, lease, calls)


async def _balance(db: Database, batch_id: UUID) -> tuple[str, str, str]:
    async with db.transaction() as conn:
        found = await ledger.balance(conn, batch_id)
    return f"{found.reserved_usd:.2f}", f"{found.spent_usd:.2f}", f"{found.overrun_usd:.2f}"


async def test_money_goes_to_calls_in_order_as_far_as_it_reaches(db: Database) -> None:
    batch_id, lease = await _dispatching(db)

    assert await _reserve(db, lease, "0.60", "0.50", "0.40", "0.01") == [True, False, True, False]
    assert await _balance(db, batch_id) == ("1.00", "0.00", "0.00")


async def test_without_a_budget_every_call_is_granted(db: Database) -> None:
    batch_id, lease = await _dispatching(db, budget_usd=None)

    assert await _reserve(db, lease, "600", "500") == [True, True]
    assert await _balance(db, batch_id) == ("1100.00", "0.00", "0.00")


async def test_dispatchers_at_once_never_reserve_more_than_the_budget(db: Database) -> None:
    batch_id, first = await _dispatching(db, 8, shard_size=1)
    leases = [first, *[await claim(db, batch_id, Stage.DISPATCH, n) for n in range(1, 8)]]

    granted = await asyncio.gather(*(_reserve(db, lease, "0.30") for lease in leases))

    assert sum(sum(grants) for grants in granted) == 3
    assert await _balance(db, batch_id) == ("0.90", "0.00", "0.00")


async def test_a_reservation_repeated_after_a_lost_acknowledgement_moves_no_money(
    db: Database,
) -> None:
    batch_id, lease = await _dispatching(db)
    await _reserve(db, lease, "0.60")

    assert await _reserve(db, lease, "0.60", "0.40") == [True, True]
    assert await _balance(db, batch_id) == ("1.00", "0.00", "0.00")


async def test_settling_frees_the_worst_case_and_counts_the_cost(db: Database) -> None:
    batch_id, lease = await _dispatching(db)
    await _reserve(db, lease, "0.60", "0.40")

    await _settle(db, lease, attempt(0, "0.10"), attempt(1, "0.05"))

    assert await _balance(db, batch_id) == ("0.00", "0.15", "0.00")


async def test_a_settlement_repeated_after_a_lost_acknowledgement_moves_no_money(
    db: Database,
) -> None:
    batch_id, lease = await _dispatching(db)
    await _reserve(db, lease, "0.60", "0.40")
    await _settle(db, lease, attempt(0, "0.10"))

    await _settle(db, lease, attempt(0, "0.10"), attempt(1, "0.05"))
    await _settle(db, lease, attempt(0, "0.10"))
    await _settle(db, lease)

    assert await _balance(db, batch_id) == ("0.00", "0.15", "0.00")


async def test_a_cost_beyond_its_worst_case_is_an_overrun_and_ends_spending(db: Database) -> None:
    batch_id, lease = await _dispatching(db)
    await _reserve(db, lease, "0.60")

    await _settle(db, lease, attempt(0, "0.90"))

    assert await _balance(db, batch_id) == ("0.00", "0.60", "0.30")
    assert await _reserve(db, lease, "0.60", "0.11", "0.10") == [True, False, True]


async def test_what_a_crash_hid_counts_at_its_worst_case_once(db: Database) -> None:
    batch_id, lease = await _dispatching(db)
    await _reserve(db, lease, "0.60", "0.30")
    await _settle(db, lease, attempt(0, "0.10"))

    async with db.transaction() as conn:
        lost = [await write_off(conn, lease) for _ in range(2)]
        pending = await jobs.pending(conn, lease)

    assert lost == [1, 0]
    assert await _balance(db, batch_id) == ("0.00", "0.40", "0.00")
    assert [(job.attempts, job.cost_usd) for job in pending[:3]] == [
        (1, Decimal("0.10")),
        (1, Decimal("0.30")),
        (0, 0),
    ]


async def test_a_write_off_leaves_other_shards_calls_alone(db: Database) -> None:
    batch_id, lease = await _dispatching(db, shard_size=2)
    other = await claim(db, batch_id, Stage.DISPATCH, 1)
    await _reserve(db, other, "0.20")

    async with db.transaction() as conn:
        assert await write_off(conn, lease) == 0


async def test_the_database_itself_refuses_to_exceed_a_budget(db: Database) -> None:
    batch_id, _ = await _dispatching(db)

    with pytest.raises(StoreError, match="ledgers_budget"):
        async with db.transaction() as conn:
            await conn.execute(
                "UPDATE ledgers SET spent_usd = 1.01 WHERE batch_id = %s", [batch_id]
            )


async def test_a_batch_that_was_never_sealed_has_no_ledger(db: Database) -> None:
    with pytest.raises(NotFoundError):
        async with db.transaction() as conn:
            await ledger.balance(conn, UUID(int=0))


async def test_the_first_result_of_a_job_stands(db: Database) -> None:
    batch_id, lease = await _dispatching(db)

    async with db.transaction() as conn:
        assert await results.save(conn, lease, [result(0, "first"), result(1)]) == 2
        assert await results.save(conn, lease, [result(0, "second"), result(2)]) == 1
        assert await results.save(conn, lease, []) == 0
        found = [record async for record in results.iterate(conn, batch_id)]

    assert [(record.custom_id, record.answer) for record in found] == [
        ("job-0", "first"),
        ("job-1", "here"),
        ("job-2", "here"),
    ]


async def test_results_stream_in_input_order_with_what_was_expected(db: Database) -> None:
    batch_id, lease = await _dispatching(db)
    await dispatch(db, lease)

    async with db.transaction() as conn:
        await grades.save(conn, batch_id, [grades.GradeRecord(1, 0.0, "exact", "first try")])
        await grades.save(conn, batch_id, [grades.GradeRecord(1, 1.0, "numeric")])
        found = [record async for record in results.iterate(conn, batch_id)]

    assert [record.job_no for record in found] == [0, 1, 2, 3]
    record = found[1]
    assert (record.status, record.model, record.answer) == (
        ResultStatus.SUCCEEDED,
        "small",
        "here",
    )
    assert (record.expected_quality, record.expected_cost_usd) == (0.5, Decimal("0.01"))
    assert (record.quality, found[0].quality) == (1.0, None)
    assert record.response == {"id": "response-1"}


async def test_a_finished_job_is_not_pending(db: Database) -> None:
    _, lease = await _dispatching(db)
    failed = Result(1, ResultStatus.FAILED, Decimal(0), 0, error_code="x", error_message="y")

    async with db.transaction() as conn:
        await results.save(conn, lease, [result(0), failed])
        assert [job.job.job_no for job in await jobs.pending(conn, lease)] == [2, 3]


async def test_answers_that_the_database_cannot_hold_are_mended(db: Database) -> None:
    batch_id, lease = await _dispatching(db)

    async with db.transaction() as conn:
        await results.save(conn, lease, [result(0, "nul \0, half \ud83d, whole 🎈")])
        found = [record async for record in results.iterate(conn, batch_id)]

    assert found[0].answer == "nul \ufffd, half \ufffd, whole 🎈"


async def test_progress_counts_jobs_money_and_models(db: Database) -> None:
    batch_id, lease = await _dispatching(db, shard_size=2)
    await dispatch(db, lease)

    async with db.transaction() as conn:
        found = await progress(conn, batch_id)

    assert (found.jobs, found.scored, found.ended) == (4, 4, 2)
    assert found.results[ResultStatus.SUCCEEDED] == 2
    assert found.balance.free_usd == Decimal("0.98")
    assert found.models == (ModelShare("small", 2, 2, Decimal("0.02")),)


async def test_deleting_a_batch_takes_its_state_along(db: Database) -> None:
    batch_id, _ = await _dispatching(db)

    async with db.transaction() as conn:
        await conn.execute("DELETE FROM batches WHERE id = %s", [batch_id])
        with pytest.raises(NotFoundError):
            await ledger.balance(conn, batch_id)
        assert await batches.list_recent(conn, 1) == []
