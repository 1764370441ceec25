"""Dispatch shards that no worker holds because all their jobs wait for endpoints or money.

Such a shard is ready, and its `not_before` lies at the end of its jobs' patience. It becomes due
earlier once an endpoint that it waits for takes calls again, or money comes back to its batch. An
endpoint whose breaker is open is probed by one call: for it one of its shards becomes due. No more
shards become due than keep an endpoint busy for some seconds, by its limits per minute and its
slots.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from routoo.domain.absence import SHORT_WAIT_S
from routoo.domain.job import ShardKey, Stage
from routoo.limits.account import WINDOW_S, Account
from routoo.store.endpoints import account_of_json


@dataclass(frozen=True, slots=True)
class WaitsFor:
    """What all jobs of a shard wait for."""

    endpoints: frozenset[str] = frozenset()
    """Keys of endpoints that take no calls."""
    usd: Decimal | None = None
    """Worst case of the cheapest call that the money of the batch doesn't cover now."""


_WAITING = """
    SELECT s.batch_id, s.shard_no, s.waits_for, s.not_before > clock_timestamp(),
           s.waits_usd IS NOT NULL AND (l.reserved_usd = 0 OR l.limit_usd IS NULL OR
               l.limit_usd - l.reserved_usd - l.spent_usd - l.overrun_usd - l.fallback_usd
                   >= s.waits_usd),
           s.job_count
    FROM shards s JOIN batches b ON b.id = s.batch_id JOIN ledgers l ON l.batch_id = s.batch_id
    WHERE s.waits_for IS NOT NULL AND s.state = 'ready' AND b.status = 'in_progress'
    ORDER BY EXISTS (SELECT FROM shards held WHERE held.batch_id = s.batch_id
                     AND held.stage = 'dispatch' AND held.state = 'leased'),
             b.created_at, s.batch_id, s.shard_no
"""
_END_WAIT = """
    UPDATE shards s SET not_before = NULL
    FROM unnest(%s::uuid[], %s::int[]) AS due (batch_id, shard_no)
    WHERE s.batch_id = due.batch_id AND s.shard_no = due.shard_no AND s.stage = 'dispatch'
      AND s.state = 'ready' AND s.waits_for IS NOT NULL
"""


async def make_due(conn: AsyncConnection) -> list[ShardKey]:
    """Make the shards due whose wait is over; to be called every few seconds.

    Returns:
        Their keys, to be published.
    """
    waiting = await (await conn.execute(_WAITING.encode())).fetchall()
    if not waiting:
        return []
    names = {name for _, _, endpoints, *_ in waiting for name in endpoints}
    accounts, now_s = await _accounts(conn, names)
    demand = _Demand(accounts, now_s)
    for _, _, endpoints, is_waiting, _, job_count in waiting:
        if not is_waiting:  # it is due already
            demand.add(endpoints, job_count)
    due: list[ShardKey] = []
    for batch_id, shard_no, endpoints, is_waiting, has_money, job_count in waiting:
        if is_waiting and (has_money or any(map(demand.takes, endpoints))):
            due.append(ShardKey(batch_id, Stage.DISPATCH, shard_no))
            demand.add(endpoints, job_count)
    await conn.execute(
        _END_WAIT.encode(), [[key.batch_id for key in due], [key.shard_no for key in due]]
    )
    return due


async def end_waits(conn: AsyncConnection, batch_id: UUID) -> None:
    """Make all shards of a batch due that wait for endpoints or money."""
    await conn.execute(
        "UPDATE shards SET not_before = NULL"
        " WHERE batch_id = %s AND state = 'ready' AND waits_for IS NOT NULL",
        [batch_id],
    )


async def _accounts(
    conn: AsyncConnection, names: Iterable[str]
) -> tuple[dict[str, Account], float]:
    cursor = await conn.execute(
        "SELECT extract(epoch FROM clock_timestamp())::float8, endpoint, account::text"
        " FROM (SELECT) AS one LEFT JOIN endpoints ON endpoint = ANY(%s)",
        [sorted(names)],
    )
    rows = await cursor.fetchall()
    accounts = {
        name: account_of_json(orjson.loads(text), WINDOW_S) for _, name, text in rows if name
    }
    return accounts, rows[0][0]


@dataclass(slots=True)
class _Demand:
    """The shards that are due, or become so, by the endpoints that they will call."""

    accounts: dict[str, Account]
    now_s: float
    probed: set[str] = field(default_factory=set)
    """Endpoints that a shard will probe."""
    queue_s: dict[str, float] = field(default_factory=dict)
    """How long the limits of an endpoint keep those shards, in seconds."""

    def takes(self, name: str) -> bool:
        """Return whether an endpoint takes the calls of one more shard."""
        account = self.accounts.get(name)
        if _may_probe(account, self.now_s):
            return name not in self.probed
        return _is_open(account, self.now_s) and self._queue_s(name) <= SHORT_WAIT_S

    def add(self, names: Sequence[str], job_count: int) -> None:
        """Count a shard that will call its endpoints."""
        self.probed.update(names)
        for name in names:
            account = self.accounts.get(name)
            if account is not None and account.interval_s:
                self.queue_s[name] = self._queue_s(name) + job_count * account.interval_s

    def _queue_s(self, name: str) -> float:
        account = self.accounts.get(name)
        known_s = 0.0 if account is None else account.queue_s(self.now_s)
        return self.queue_s.get(name, known_s)


def _is_open(account: Account | None, now_s: float) -> bool:
    """Return whether an endpoint takes calls, as far as is known."""
    if account is None:
        return True
    is_paused = now_s < account.paused_until_s or account.held_since_s > 0
    return not is_paused and not account.breaker.is_open


def _may_probe(account: Account | None, now_s: float) -> bool:
    """Return whether an endpoint that keeps failing may be tried by one call, and nobody does."""
    if account is None or account.held_since_s or now_s < account.paused_until_s:
        return False
    breaker = account.breaker
    return breaker.is_open and breaker.prober is None and now_s >= breaker.open_until_s
