"""The ledger: money is reserved before a call is sent and settled after it.

Of a batch, `reserved_usd + spent_usd` never exceeds the limit: a constraint of the table. Every
function may be repeated when a commit's acknowledgement was lost: rows that exist already move no
money again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from routoo.domain.completion import Attempt, Reservation
from routoo.domain.job import Lease
from routoo.errors import NotFoundError
from routoo.store import shards
from routoo.store.text import storable


@dataclass(frozen=True, slots=True)
class Balance:
    """A batch's money, in USD."""

    limit_usd: Decimal | None
    """The budget; None means none."""
    reserved_usd: Decimal
    """Worst case of the calls in flight."""
    spent_usd: Decimal
    """Cost of the calls that ended, each within its worst case."""
    overrun_usd: Decimal
    """What endpoints billed beyond the worst case of a call."""

    @property
    def free_usd(self) -> Decimal | None:
        """What may still be reserved, less any overrun; None means no limit."""
        if self.limit_usd is None:
            return None
        used = self.reserved_usd + self.spent_usd + self.overrun_usd
        return max(self.limit_usd - used, Decimal(0))


async def balance(conn: AsyncConnection, batch_id: UUID) -> Balance:
    """Return a batch's money.

    Raises:
        NotFoundError: The batch has no ledger.
    """
    return await _balance(conn, batch_id, b"")


async def reserve(conn: AsyncConnection, lease: Lease, wanted: Sequence[Reservation]) -> list[bool]:
    """Set money aside for calls, in order, as far as the budget goes.

    Args:
        conn: A transaction; send the calls after its commit.
        lease: The dispatch shard.
        wanted: The calls with their worst cases.

    Returns:
        For each call whether it may be sent. One that is refused takes nothing from a cheaper
        one behind it.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await shards.fence(conn, lease)
    batch_id = lease.key.batch_id
    # Locked before it is read: two dispatchers must not both take the last dollar.
    free_usd = (await _balance(conn, batch_id, b"FOR NO KEY UPDATE")).free_usd
    existing = await _existing(conn, batch_id, wanted)
    granted = _grant(wanted, existing, free_usd)
    fresh = [
        reservation
        for reservation, yes in zip(wanted, granted, strict=True)
        if yes and (reservation.job_no, reservation.attempt_no) not in existing
    ]
    if fresh:
        await _insert(conn, lease, fresh)
    return granted


def _grant(
    wanted: Sequence[Reservation], existing: set[tuple[int, int]], free_usd: Decimal | None
) -> list[bool]:
    granted = []
    for reservation in wanted:
        needs_money = (reservation.job_no, reservation.attempt_no) not in existing
        yes = not needs_money or free_usd is None or reservation.worst_case_usd <= free_usd
        if yes and needs_money and free_usd is not None:
            free_usd -= reservation.worst_case_usd
        granted.append(yes)
    return granted


async def _existing(
    conn: AsyncConnection, batch_id: UUID, wanted: Sequence[Reservation]
) -> set[tuple[int, int]]:
    cursor = await conn.execute(
        """
        SELECT job_no, attempt_no FROM reservations
        JOIN unnest(%s::int[], %s::int[]) AS wanted(job_no, attempt_no) USING (job_no, attempt_no)
        WHERE batch_id = %s
        """,
        [[w.job_no for w in wanted], [w.attempt_no for w in wanted], batch_id],
    )
    return set(await cursor.fetchall())


async def _insert(conn: AsyncConnection, lease: Lease, fresh: Sequence[Reservation]) -> None:
    await conn.execute(
        """
        WITH new AS (
            INSERT INTO reservations (batch_id, shard_no, job_no, attempt_no, model, worst_case_usd)
            SELECT %(batch_id)s, %(shard_no)s, * FROM unnest(
                %(job_no)s::int[], %(attempt_no)s::int[], %(model)s::text[], %(usd)s::numeric[])
            RETURNING worst_case_usd
        )
        UPDATE ledgers SET reserved_usd = reserved_usd + (SELECT sum(worst_case_usd) FROM new)
        WHERE batch_id = %(batch_id)s
        """,
        {
            "batch_id": lease.key.batch_id,
            "shard_no": lease.key.shard_no,
            "job_no": [reservation.job_no for reservation in fresh],
            "attempt_no": [reservation.attempt_no for reservation in fresh],
            "model": [reservation.model for reservation in fresh],
            "usd": [reservation.worst_case_usd for reservation in fresh],
        },
    )


# Turns freshly inserted attempts (`new`) into money: of each, its reservation is freed, its cost
# counts as spent as far as it was reserved, and the rest as overrun.
_SETTLE_NEW = """
    UPDATE ledgers SET reserved_usd = reserved_usd - freed, spent_usd = spent_usd + spent,
        overrun_usd = overrun_usd + overrun
    FROM (
        SELECT sum(worst) AS freed, sum(least(cost, worst)) AS spent,
               sum(greatest(cost - worst, 0)) AS overrun
        FROM (
            SELECT new.cost_usd AS cost, coalesce(r.worst_case_usd, 0) AS worst
            FROM new LEFT JOIN reservations r USING (batch_id, job_no, attempt_no)
        ) AS calls
        HAVING count(*) > 0
    ) AS total
    WHERE batch_id = %(batch_id)s
"""


async def settle(conn: AsyncConnection, lease: Lease, calls: Sequence[Attempt]) -> None:
    """Record calls that ended, and replace their reservations by what they cost.

    A cost beyond the worst case is recorded as overrun: the endpoint's count broke our bound.

    Args:
        conn: A transaction.
        lease: The dispatch shard.
        calls: Attempts; each frees what was reserved under its job and number.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await shards.fence(conn, lease)
    if not calls:
        return
    columns = zip(*(_attempt_values(attempt) for attempt in calls), strict=True)
    await conn.execute(
        f"""
        WITH new AS (
            INSERT INTO attempts (batch_id, job_no, attempt_no, model, status, http_status,
                prompt_tokens, completion_tokens, usage_estimated, cost_usd, latency_s,
                error_code, error_message)
            SELECT %(batch_id)s, * FROM unnest(
                %(c0)s::int[], %(c1)s::int[], %(c2)s::text[], %(c3)s::text[], %(c4)s::int[],
                %(c5)s::int[], %(c6)s::int[], %(c7)s::bool[], %(c8)s::numeric[], %(c9)s::real[],
                %(c10)s::text[], %(c11)s::text[])
            ON CONFLICT DO NOTHING RETURNING batch_id, job_no, attempt_no, cost_usd
        ) {_SETTLE_NEW}
        """.encode(),  # noqa: S608 - literals of this module
        {"batch_id": lease.key.batch_id}
        | {f"c{number}": list(column) for number, column in enumerate(columns)},
    )


def _attempt_values(attempt: Attempt) -> tuple[object, ...]:
    usage = attempt.usage
    return (
        attempt.job_no,
        attempt.attempt_no,
        attempt.model,
        attempt.status,
        attempt.http_status,
        usage.prompt_tokens if usage else None,
        usage.completion_tokens if usage else None,
        usage.estimated if usage else False,
        attempt.cost_usd,
        attempt.latency_s,
        attempt.error_code,
        storable(attempt.error_message),
    )


async def write_off(conn: AsyncConnection, lease: Lease) -> int:
    """Count calls whose outcome a crash hid as spent at their worst case.

    Call it when a shard is taken, before any call of one's own: every reservation of the slice
    that has no attempt then belongs to a worker that is gone.

    Returns:
        How many calls were lost.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    await shards.fence(conn, lease)
    cursor = await conn.execute(
        f"""
        WITH new AS (
            INSERT INTO attempts (batch_id, job_no, attempt_no, model, status, cost_usd,
                                  error_code, error_message)
            SELECT batch_id, job_no, attempt_no, model, 'lost', worst_case_usd, 'lost',
                   'The worker that made the call died before it could say what came back'
            FROM reservations r
            WHERE batch_id = %(batch_id)s AND job_no >= %(first)s AND job_no < %(end)s
              AND NOT EXISTS (
                SELECT FROM attempts a WHERE a.batch_id = r.batch_id AND a.job_no = r.job_no
                  AND a.attempt_no = r.attempt_no)
            ON CONFLICT DO NOTHING RETURNING batch_id, job_no, attempt_no, cost_usd
        ), settled AS ({_SETTLE_NEW})
        SELECT count(*) FROM new
        """.encode(),  # noqa: S608 - as above
        {
            "batch_id": lease.key.batch_id,
            "first": lease.first_job,
            "end": lease.first_job + lease.job_count,
        },
    )
    row = await cursor.fetchone()
    return row[0] if row else 0


async def _balance(conn: AsyncConnection, batch_id: UUID, locking: bytes) -> Balance:
    async with conn.cursor(row_factory=class_row(Balance)) as cursor:
        await cursor.execute(
            b"SELECT limit_usd, reserved_usd, spent_usd, overrun_usd FROM ledgers"
            b" WHERE batch_id = %s " + locking,
            [batch_id],
        )
        found = await cursor.fetchone()
    if found is None:
        raise NotFoundError("there is no ledger of such a batch", value=str(batch_id))
    return found
