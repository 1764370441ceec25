"""Keys of the gateway's users: made, listed, revoked and recognised; the key itself is not kept."""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from routoo.domain.caller import Caller, Scope
from routoo.errors import InputError, NotFoundError
from routoo.store import columns

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
_SOURCE = f"""(
    SELECT id, name, scopes, created_at, revoked_at, key_sha256, limit_usd, {_TODAY} AS day,
           reserved_usd, CASE day WHEN {_TODAY} THEN spent_usd ELSE 0 END AS spent_usd,
           CASE day WHEN {_TODAY} THEN overrun_usd ELSE 0 END AS overrun_usd
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
