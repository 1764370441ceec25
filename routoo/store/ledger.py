"""The ledger: money is reserved before a call is sent and settled after it.

Of a batch, `reserved_usd + spent_usd` never exceeds the limit: a constraint of the table. The same
holds of the key that submitted it, whose ledger a trigger moves with the batch's. Every function
may be repeated when a commit's acknowledgement was lost: rows that exist already move no money
again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from psycopg import AsyncConnection, AsyncCursor

from routoo.domain.completion import Attempt, Reservation
from routoo.domain.job import Lease
from routoo.errors import NotFoundError
from routoo.store import columns, leases
from routoo.store.encoding import json_rows, storable


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
    fallback_usd: Decimal = Decimal(0)
    """Kept for the cheapest calls of open jobs: other calls must leave it."""

    @property
    def free_usd(self) -> Decimal | None:
        """What may still be reserved, less any overrun; None means no limit."""
        if self.limit_usd is None:
            return None
        used = self.reserved_usd + self.spent_usd + self.overrun_usd
        return max(self.limit_usd - used, Decimal(0))

    @property
    def unspent_usd(self) -> Decimal | None:
        """What is not spent, though calls in flight may have reserved it; None means no limit."""
        if self.limit_usd is None:
            return None
        return self.limit_usd - self.spent_usd - self.overrun_usd

    def keeps_from(self, call: Reservation) -> bool:
        """Return whether a call would take money of last resorts, whatever calls in flight free."""
        if self.unspent_usd is None or call.last_resort:
            return False
        return call.worst_case_usd + self.fallback_usd > self.unspent_usd


@dataclass(slots=True)  # not frozen: one is made for every call
class AttemptRecord:
    """A row of `attempts`, without the batch: the one list of its columns."""

    job_no: int
    attempt_no: int
    model: str
    status: str
    http_status: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    usage_estimated: bool
    cost_usd: Decimal
    latency_s: float | None
    error_code: str | None
    error_message: str | None
    cached_prompt_tokens: int | None
    probe: bool
    token_probabilities: dict[str, float | None] | None
    cache_write_tokens: int | None


_RESERVATION = columns.listed(columns.names(Reservation))
_RESERVATION_ROWS = columns.recordset(Reservation)
_ATTEMPT = columns.listed(columns.names(AttemptRecord))
_ATTEMPT_ROWS = columns.recordset(AttemptRecord)
_ATTEMPT_VALUES = columns.from_recordset(AttemptRecord, columns.names(AttemptRecord))


async def balance(conn: AsyncConnection, batch_id: UUID, *, locked: bool = False) -> Balance:
    """Return a batch's money; locked, no other transaction moves it before this one ends.

    Raises:
        NotFoundError: The batch has no ledger.
    """
    source = "ledgers WHERE batch_id = %s" + (" FOR NO KEY UPDATE" if locked else "")
    found = await columns.select(conn, Balance, source, [batch_id])
    if not found:
        raise NotFoundError("there is no ledger of such a batch", value=str(batch_id))
    return found[0]


async def reserve(
    conn: AsyncConnection, lease: Lease, wanted: Sequence[Reservation], *, fenced: bool = False
) -> list[bool]:
    """Set money aside for calls, in order, as far as the budget goes.

    A call that is not its job's last resort must leave what is kept for those of open jobs.

    Args:
        conn: A transaction; send the calls after its commit.
        lease: The dispatch shard.
        wanted: The calls with their worst cases.
        fenced: The transaction has proved the lease.

    Returns:
        For each call whether it may be sent. One that is refused takes nothing from a cheaper
        one behind it.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    if not fenced:
        await leases.fence(conn, lease)
    batch_id = lease.key.batch_id
    # Locked before it is read: two dispatchers must not both take the last dollar.
    own = await balance(conn, batch_id, locked=True)
    key_usd = await _free_of_key(conn, batch_id)
    existing = await _existing(conn, batch_id, wanted)
    granted = _grant(wanted, existing, own, key_usd)
    fresh = [
        reservation
        for reservation, yes in zip(wanted, granted, strict=True)
        if yes and (reservation.job_no, reservation.attempt_no) not in existing
    ]
    if fresh:
        await _insert(conn, lease, fresh)
    return granted


_RESERVE_ALL = f"""
    WITH wanted AS MATERIALIZED (
        SELECT {_RESERVATION}, last_resort FROM {_RESERVATION_ROWS}
    ), paid AS (
        UPDATE ledgers SET reserved_usd = reserved_usd + total
        FROM (SELECT sum(worst_case_usd) AS total, bool_and(last_resort) AS are_last
              FROM wanted) AS sums
        WHERE batch_id = %(batch_id)s AND NOT EXISTS (
            SELECT FROM reservations r JOIN wanted w USING (job_no, attempt_no)
            WHERE r.batch_id = %(batch_id)s)
          AND (limit_usd IS NULL OR reserved_usd + spent_usd + overrun_usd + total
               + CASE WHEN are_last THEN 0 ELSE fallback_usd END <= limit_usd)
          AND NOT EXISTS (  -- a key's limit is looked at under a lock
            SELECT FROM key_ledgers k WHERE k.key_id = ledgers.key_id
              AND k.limit_usd IS NOT NULL)
        RETURNING 1
    )
    INSERT INTO reservations (batch_id, shard_no, {_RESERVATION})
    SELECT %(batch_id)s, %(shard_no)s, {_RESERVATION} FROM wanted, paid
""".encode()


async def reserve_all(
    conn: AsyncConnection, lease: Lease, wanted: Sequence[Reservation]
) -> AsyncCursor:
    """Reserve calls in one statement if all are new and the budget bears them together.

    Args:
        conn: A transaction, or a pipeline in one; it has proved the lease.
        lease: The dispatch shard.
        wanted: The calls with their worst cases.

    Returns:
        What counts the reserved calls: all, or none, and then `reserve` knows which.
    """
    return await conn.execute(_RESERVE_ALL, _reservation_values(lease, wanted))


async def _free_of_key(conn: AsyncConnection, batch_id: UUID) -> Decimal | None:
    """Return what the key of a batch may still reserve today, locked; None means no limit.

    A batch's ledger is locked before its key's, here and by the trigger that moves its money.
    """
    cursor = await conn.execute(
        """
        SELECT greatest(0, limit_usd - reserved_usd - CASE day
            WHEN (now() AT TIME ZONE 'UTC')::date THEN spent_usd + overrun_usd ELSE 0 END)
        FROM key_ledgers WHERE limit_usd IS NOT NULL
          AND key_id = (SELECT key_id FROM ledgers WHERE batch_id = %s)
        FOR NO KEY UPDATE
        """,
        [batch_id],
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


def _grant(
    wanted: Sequence[Reservation],
    existing: set[tuple[int, int]],
    own: Balance,
    key_usd: Decimal | None,
) -> list[bool]:
    granted, taken_usd = [], Decimal(0)
    for reservation in wanted:
        needs_money = (reservation.job_no, reservation.attempt_no) not in existing
        total_usd = taken_usd + reservation.worst_case_usd
        # What is kept for cheapest calls is kept of the batch's budget, not of its key's limit.
        kept_usd = Decimal(0) if reservation.last_resort else own.fallback_usd
        yes = _covers(own.free_usd, total_usd + kept_usd) and _covers(key_usd, total_usd)
        if yes and needs_money:
            taken_usd = total_usd
        granted.append(yes or not needs_money)
    return granted


def _covers(free_usd: Decimal | None, usd: Decimal) -> bool:
    return free_usd is None or usd <= free_usd


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
        f"""
        WITH new AS (
            INSERT INTO reservations (batch_id, shard_no, {_RESERVATION})
            SELECT %(batch_id)s, %(shard_no)s, {_RESERVATION} FROM {_RESERVATION_ROWS}
            RETURNING worst_case_usd
        )
        UPDATE ledgers SET reserved_usd = reserved_usd + (SELECT sum(worst_case_usd) FROM new)
        WHERE batch_id = %(batch_id)s
        """.encode(),
        _reservation_values(lease, fresh),
    )


def _reservation_values(lease: Lease, calls: Sequence[Reservation]) -> dict[str, object]:
    key = lease.key
    return {"batch_id": key.batch_id, "shard_no": key.shard_no, "rows": json_rows(calls)}


_RELEASE = b"""
    WITH freed AS (
        DELETE FROM reservations r
        USING unnest(%(job_no)s::int[], %(attempt_no)s::int[]) AS unsent(job_no, attempt_no)
        WHERE r.batch_id = %(batch_id)s AND r.job_no = unsent.job_no
          AND r.attempt_no = unsent.attempt_no
          AND NOT EXISTS (
            SELECT FROM attempts a WHERE a.batch_id = r.batch_id AND a.job_no = r.job_no
              AND a.attempt_no = r.attempt_no)
        RETURNING worst_case_usd
    )
    UPDATE ledgers SET reserved_usd = reserved_usd
        - (SELECT coalesce(sum(worst_case_usd), 0) FROM freed)
    WHERE batch_id = %(batch_id)s
"""


async def release(
    conn: AsyncConnection, lease: Lease, calls: Sequence[tuple[int, int]], *, fenced: bool = False
) -> None:
    """Give back what was reserved for calls that were never sent.

    Args:
        conn: A transaction.
        lease: The dispatch shard.
        calls: Their job and attempt numbers; one that is settled or not reserved moves no money.
        fenced: The transaction has proved the lease.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    if not fenced:
        await leases.fence(conn, lease)
    await conn.execute(
        _RELEASE,
        {
            "batch_id": lease.key.batch_id,
            "job_no": [job_no for job_no, _ in calls],
            "attempt_no": [attempt_no for _, attempt_no in calls],
        },
    )


async def mark_sent(conn: AsyncConnection, lease: Lease, calls: Sequence[tuple[int, int]]) -> None:
    """Note of reserved calls that they may be sent once this is committed.

    Args:
        conn: A transaction that has proved the lease.
        lease: The dispatch shard.
        calls: Their job and attempt numbers.
    """
    await conn.execute(
        """
        UPDATE reservations r SET sent = true
        FROM unnest(%s::int[], %s::int[]) AS wanted(job_no, attempt_no)
        WHERE r.batch_id = %s AND r.job_no = wanted.job_no AND r.attempt_no = wanted.attempt_no
        """,
        [[job_no for job_no, _ in calls], [no for _, no in calls], lease.key.batch_id],
    )


# Turns freshly inserted attempts (`new`) into money: of each, its reservation is freed, its cost
# counts as spent as far as it was reserved, and the rest as overrun.
SETTLE_NEW = """
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


_SETTLE = f"""
    WITH new AS (
        INSERT INTO attempts (batch_id, {_ATTEMPT})
        SELECT %(batch_id)s, {_ATTEMPT_VALUES} FROM {_ATTEMPT_ROWS}
        ON CONFLICT DO NOTHING RETURNING batch_id, job_no, attempt_no, cost_usd
    ) {SETTLE_NEW}
""".encode()


async def settle(
    conn: AsyncConnection, lease: Lease, calls: Sequence[Attempt], *, fenced: bool = False
) -> None:
    """Record calls that ended, and replace their reservations by what they cost.

    A cost beyond the worst case is recorded as overrun: the endpoint's count broke our bound.

    Args:
        conn: A transaction.
        lease: The dispatch shard.
        calls: Attempts; each frees what was reserved under its job and number.
        fenced: The transaction has proved the lease.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
    """
    if not fenced:
        await leases.fence(conn, lease)
    if not calls:
        return
    await conn.execute(
        _SETTLE, {"batch_id": lease.key.batch_id, "rows": json_rows(map(_attempt_record, calls))}
    )


def _attempt_record(attempt: Attempt) -> AttemptRecord:
    usage, summary = attempt.usage, attempt.token_probabilities
    return AttemptRecord(
        job_no=attempt.job_no,
        attempt_no=attempt.attempt_no,
        model=attempt.model,
        status=attempt.status,
        http_status=attempt.http_status,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        usage_estimated=usage.estimated if usage else False,
        cost_usd=attempt.cost_usd,
        latency_s=attempt.latency_s,
        error_code=attempt.error_code,
        error_message=storable(attempt.error_message),
        cached_prompt_tokens=usage.cached_prompt_tokens if usage else None,
        probe=attempt.probe,
        token_probabilities=None if summary is None else summary.figures(),
        cache_write_tokens=usage.cache_write_tokens if usage else None,
    )
