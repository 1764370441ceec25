"""Reads what a database server says of itself: version, clock, connections, durability."""

import time
from dataclasses import dataclass

from psycopg import AsyncConnection


@dataclass(frozen=True, slots=True)
class ServerHealth:
    """A database server at one moment."""

    version: str
    clock_ahead_s: float
    """How far its clock is ahead of this machine's, in seconds."""
    usable_connections: int
    """Connections that it has for users who are not superusers."""
    used_connections: int
    """Of these, connections that others hold now."""
    is_read_only: bool
    """It is a replica, or takes no writes for another reason."""
    is_durable: bool
    """What it has committed survives a loss of power."""


# Of a superuser's own reserve, and of PostgreSQL 16's `reserved_connections`.
_HEALTH = """
SELECT current_setting('server_version'),
       extract(epoch FROM clock_timestamp())::float8,
       current_setting('max_connections')::int
           - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0),
       (SELECT count(*)::int FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
       pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool,
       current_setting('fsync')::bool AND current_setting('full_page_writes')::bool
           AND current_setting('synchronous_commit') <> 'off'
"""


async def server_health(conn: AsyncConnection) -> ServerHealth:
    """Return how a database server is."""
    asked_s = time.time()
    version, clock_s, *facts = (await (await conn.execute(_HEALTH)).fetchall())[0]
    middle_s = (asked_s + time.time()) / 2  # when the server looked at its clock, about
    return ServerHealth(version, clock_s - middle_s, *facts)
