"""Keys of the gateway's users, and the single completions that their money of the day pays for.

A key itself is not kept. The worst case of a call is reserved where its key has a limit, and then
settled; settling the same call twice moves no money again.
"""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from routoo.domain.caller import Caller, Scope
from routoo.errors import InputError, NotFoundError
from routoo.store import columns
from routoo.store.encoding import json_rows

_PREFIX = "rt-"
"""So that scanners for leaked secrets can know a key by its beginning."""
_RANDOM_BYTES = 32


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as the store knows it, with its money of today (UTC)."""

    id: UUID
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None
    limit_usd: Decimal | None
    """Most that it may spend a day; None means no limit."""
    day: date
    """Today."""
    reserved_usd: Decimal
    """Worst case of its calls in flight."""
    spent_usd: Decimal
    """Cost of the calls that were settled today."""
    overrun_usd: Decimal
    """What endpoints billed today beyond the worst case of a call."""

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "scopes", frozenset(map(Scope, self.scopes)))

    @property
    def caller(self) -> Caller:
        """Who asks with this key."""
        return Caller(self.name, self.scopes, self.id)

    @property
    def free_usd(self) -> Decimal | None:
        """What it may still reserve today, in USD; None means no limit."""
        if self.limit_usd is None:
            return None
        used = self.reserved_usd + self.spent_usd + self.overrun_usd
        return max(self.limit_usd - used, Decimal(0))


_TODAY = "(now() AT TIME ZONE 'UTC')::date"
_SPENT = f"CASE day WHEN {_TODAY} THEN {{column}} ELSE 0 END"
_SOURCE = f"""(
    SELECT id, name, scopes, created_at, revoked_at, key_sha256, limit_usd, {_TODAY} AS day,
           reserved_usd, {_SPENT.format(column="spent_usd")} AS spent_usd,
           {_SPENT.format(column="overrun_usd")} AS overrun_usd
    FROM api_keys JOIN key_ledgers ON key_id = id
) AS k"""


def new_secret() -> str:
    """Return a new key: 256 random bits."""
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def hash_of(secret: str) -> str:
    """Return the hash under which a key is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def add(
    conn: AsyncConnection,
    name: str,
    secret: str,
    scopes: Collection[Scope],
    limit_usd: Decimal | None,
) -> UUID:
    """Write a key and its ledger.

    Args:
        conn: A transaction.
        name: What people call it; unique.
        secret: The key, of `new_secret`; only its hash is kept.
        scopes: What it allows.
        limit_usd: Most that it may spend a day (UTC), None for no limit.

    Raises:
        InputError: There is a key of this name.
    """
    values = {
        "id": uuid4(),
        "name": name,
        "key_sha256": hash_of(secret),
        "scopes": sorted(map(str, scopes)),
    }
    query = columns.insert("api_keys", values, "ON CONFLICT (name) DO NOTHING")
    if not (await conn.execute(query, values)).rowcount:
        raise InputError("there is a key of this name", value=name, remedy="Choose another name")
    money = {"key_id": values["id"], "limit_usd": limit_usd}
    await conn.execute(columns.insert("key_ledgers", money), money)
    return UUID(str(values["id"]))


async def list_all(conn: AsyncConnection) -> list[KeyRecord]:
    """Return all keys, revoked ones too, the oldest first."""
    return await columns.select(conn, KeyRecord, f"{_SOURCE} ORDER BY created_at, id", [])


async def recognise(conn: AsyncConnection, secret: str) -> KeyRecord | None:
    """Return the key that a secret is, None where it is none or was revoked."""
    source = f"{_SOURCE} WHERE key_sha256 = %s AND revoked_at IS NULL"
    found = await columns.select(conn, KeyRecord, source, [hash_of(secret)])
    return found[0] if found else None


async def get(conn: AsyncConnection, key_id: UUID) -> KeyRecord:
    """Return a key.

    Raises:
        NotFoundError: There is none with this id.
    """
    found = await columns.select(conn, KeyRecord, f"{_SOURCE} WHERE id = %s", [key_id])
    return columns.only(found, "key", key_id)


async def is_valid(conn: AsyncConnection, key_id: UUID) -> bool:
    """Return whether a key was not revoked."""
    query = "SELECT FROM api_keys WHERE id = %s AND revoked_at IS NULL"
    return bool((await conn.execute(query, [key_id])).rowcount)


async def revoke(conn: AsyncConnection, name: str) -> bool:
    """Let a key open nothing any more; its batches go on.

    Returns:
        False where it was revoked before.

    Raises:
        NotFoundError: There is no key of this name.
    """
    cursor = await conn.execute(
        "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE name = %s AND revoked_at IS NULL",
        [name],
    )
    if cursor.rowcount:
        return True
    known = await conn.execute("SELECT FROM api_keys WHERE name = %s", [name])
    if not known.rowcount:
        raise NotFoundError("there is no key of this name", value=name)
    return False


@dataclass(frozen=True, slots=True)
class SettledCall:
    """A single completion that ended, as its row has it."""

    id: UUID
    key_id: UUID | None
    model: str
    worst_case_usd: Decimal
    status: str
    """succeeded or failed."""
    cost_usd: Decimal
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_s: float | None
    error_code: str | None


_USED = f"reserved_usd + {_SPENT.format(column='spent_usd + overrun_usd')}"

_RESERVE = f"""
    WITH paid AS (
        UPDATE key_ledgers SET reserved_usd = reserved_usd + %(worst)s, day = {_TODAY},
            spent_usd = {_SPENT.format(column="spent_usd")},
            overrun_usd = {_SPENT.format(column="overrun_usd")}
        WHERE key_id = %(key_id)s AND (limit_usd IS NULL OR {_USED} + %(worst)s <= limit_usd)
        RETURNING 1
    )
    INSERT INTO single_calls (id, key_id, model, worst_case_usd)
    SELECT %(id)s, %(key_id)s, %(model)s, %(worst)s FROM paid
""".encode()

# Of calls that were reserved, their worst case is freed and counts as spent at most; of those that
# were not, since their key has no limit, the cost counts as spent.
_MOVE = f"""
    UPDATE key_ledgers k SET reserved_usd = reserved_usd - sums.freed, day = {_TODAY},
        spent_usd = {_SPENT.format(column="spent_usd")} + sums.spent,
        overrun_usd = {_SPENT.format(column="overrun_usd")} + sums.overrun
    FROM (SELECT key_id, sum(freed) AS freed, sum(spent) AS spent, sum(overrun) AS overrun
          FROM ended GROUP BY key_id ORDER BY key_id) AS sums
    WHERE k.key_id = sums.key_id
"""
_COLUMNS = columns.listed(columns.names(SettledCall))
_SETTLE = f"""
    WITH wanted AS (SELECT * FROM {columns.recordset(SettledCall)}),
    settled AS (
        UPDATE single_calls c SET settled_at = clock_timestamp(), status = w.status,
            cost_usd = w.cost_usd, prompt_tokens = w.prompt_tokens,
            completion_tokens = w.completion_tokens, latency_s = w.latency_s,
            error_code = w.error_code
        FROM wanted w WHERE c.id = w.id AND c.settled_at IS NULL
        RETURNING c.key_id, c.worst_case_usd AS freed,
            least(c.cost_usd, c.worst_case_usd) AS spent,
            greatest(c.cost_usd - c.worst_case_usd, 0) AS overrun
    ), added AS (
        INSERT INTO single_calls ({_COLUMNS}, settled_at)
        SELECT {_COLUMNS}, clock_timestamp() FROM wanted w
        WHERE NOT EXISTS (SELECT FROM single_calls c WHERE c.id = w.id)
        ON CONFLICT DO NOTHING
        RETURNING key_id, 0::numeric AS freed, cost_usd AS spent, 0::numeric AS overrun
    ), ended AS (SELECT * FROM settled UNION ALL SELECT * FROM added)
    {_MOVE}
""".encode()
_WRITE_OFF = f"""
    WITH ended AS (
        UPDATE single_calls SET settled_at = clock_timestamp(), status = 'lost',
            cost_usd = worst_case_usd, error_code = 'lost'
        WHERE settled_at IS NULL
          AND created_at < clock_timestamp() - make_interval(secs => %s)
        RETURNING key_id, worst_case_usd AS freed, worst_case_usd AS spent, 0::numeric AS overrun
    ) {_MOVE}
""".encode()


async def reserve_call(
    conn: AsyncConnection, call_id: UUID, key_id: UUID, model: str, worst_case_usd: Decimal
) -> bool:
    """Set the worst case of a call aside; False where its key may not spend that much today.

    Send the call after the commit.
    """
    values = {"id": call_id, "key_id": key_id, "model": model, "worst": worst_case_usd}
    return bool((await conn.execute(_RESERVE, values)).rowcount)


async def settle_calls(conn: AsyncConnection, calls: Sequence[SettledCall]) -> None:
    """Record calls that ended, and what they cost; the same call may come again."""
    await conn.execute(_SETTLE, {"rows": json_rows(calls)})


async def write_off_calls(conn: AsyncConnection, older_than_s: float) -> None:
    """Count calls that a dead gateway left as spent at their worst case.

    Args:
        conn: A transaction.
        older_than_s: Age at which no call can be in flight any more, in seconds.
    """
    await conn.execute(_WRITE_OFF, [older_than_s])
