"""Opens PostgreSQL: a pool of connections, and the one map of the driver's errors."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit
from weakref import WeakKeyDictionary

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from routoo.errors import DatabaseUnavailableError, StoreError, ValueRefusedError

_CONNECT_TIMEOUT_S = 10.0
_REFUSALS_OF_VALUES = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,  # an `OperationalError`, as if the server were away
    psycopg.errors.StatementTooComplex,
)
_RECONNECT_S = 2.0
"""Longest attempt of the pool to connect before it begins another one, in seconds."""
_FRESH_S = 0.2
"""A connection that was used within this time is not checked, since that is a round trip."""
Result = TypeVar("Result")


class Database:
    """A pool of connections to one database, as an async context manager.

    Args:
        url: `postgresql://...`, as libpq reads it.
        max_size: Most connections open at once; further callers wait.

    Raises:
        DatabaseUnavailableError: On entry, when the database can't be reached within 10 s.
    """

    def __init__(self, url: str, *, max_size: int = 8) -> None:
        self._where, self._url = redacted(url), url
        self._pool = AsyncConnectionPool(
            libpq_url(url),
            min_size=1,
            max_size=max_size,
            open=False,
            timeout=_CONNECT_TIMEOUT_S,
            configure=_configure,
            # A server that restarted is noticed here, not in the middle of a transaction.
            check=self._check_idle,
            reset=self._note_use,
            reconnect_timeout=_RECONNECT_S,
            reconnect_failed=self._connect_on,
        )
        self._connecting: asyncio.Task[None] | None = None
        self._used_at_s: WeakKeyDictionary[AsyncConnection, float] = WeakKeyDictionary()

    async def __aenter__(self) -> Self:
        with self._errors_mapped():
            try:
                await self._pool.open(wait=True, timeout=_CONNECT_TIMEOUT_S)
            except BaseException:
                await self._pool.close()
                raise
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        await self._pool.close()

    async def _connect_on(self, pool: AsyncConnectionPool) -> None:
        """Go on trying: the pool by itself would wait twice as long after each failure.

        So the end of an outage is noticed within seconds, however long it took.
        """
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(_ask_for_connection(pool))

    @asynccontextmanager
    async def transaction(self, *, pipelined: bool = False) -> AsyncIterator[AsyncConnection]:
        """Yield a connection in a transaction: committed at the end, rolled back on an error.

        Args:
            pipelined: Statements are sent without waiting for the answers to those before. Fetching
                waits for all, and so does the end of an inner `conn.pipeline()`; a cursor's
                `rowcount` is not known before.

        Raises:
            DatabaseUnavailableError: The database can't be reached, or gave the transaction up
                (deadlock, restart): the same transaction may succeed when tried again.
            StoreError: The database refused a statement.
        """
        task = asyncio.current_task()
        cancellations = task.cancelling() if task else 0
        with self._errors_mapped():
            async with self._pool.connection() as conn:
                # The pool waits by `asyncio.wait_for`, which loses a cancellation that comes in the
                # moment in which there is a connection (cpython#86296).
                if task and task.cancelling() > cancellations:
                    raise asyncio.CancelledError
                async with conn.pipeline() if pipelined else nullcontext(), conn.transaction():
                    yield conn

    async def apart(self, work: Callable[["Database"], Awaitable[Result]]) -> Result:
        """Run work that computes for long in a thread, with an event loop and a connection there.

        Args:
            work: Gets the same database, opened for it.
        """

        async def run() -> Result:
            async with Database(self._url, max_size=1) as database:
                return await work(database)

        return await asyncio.to_thread(lambda: asyncio.run(run()))

    async def _note_use(self, conn: AsyncConnection) -> None:
        self._used_at_s[conn] = time.monotonic()

    async def _check_idle(self, conn: AsyncConnection) -> None:
        """Have the server answer on a connection that was not in use a moment ago."""
        if time.monotonic() - self._used_at_s.get(conn, 0.0) > _FRESH_S:
            await AsyncConnectionPool.check_connection(conn)

    @contextmanager
    def _errors_mapped(self) -> Iterator[None]:
        try:
            yield
        except _REFUSALS_OF_VALUES as error:
            raise ValueRefusedError(
                f"the database can't hold a value: {first_line(error)}", where=self._where
            ) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise DatabaseUnavailableError(
                f"the database can't be reached or gave up: {first_line(error)}",
                where=self._where,
                remedy="Check that the server runs and ROUTOO_DATABASE_URL names it",
            ) from error
        except psycopg.errors.UndefinedTable as error:
            raise StoreError(
                f"the database has no such table: {first_line(error)}",
                where=self._where,
                remedy="Run `routoo db upgrade`",
            ) from error
        except psycopg.Error as error:
            raise StoreError(
                f"the database refused a statement: {first_line(error)}", where=self._where
            ) from error


async def check_reachable(url: str) -> None:
    """Connect once and say at once why that fails; a server that only starts up is waited for.

    Args:
        url: `postgresql://...`, as libpq reads it.

    Raises:
        DatabaseUnavailableError: No such host, server, database or user, or a wrong password.
    """
    try:
        timeout_s = int(_CONNECT_TIMEOUT_S)
        async with await AsyncConnection.connect(libpq_url(url), connect_timeout=timeout_s):
            pass
    except psycopg.errors.CannotConnectNow:
        return
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error


def unavailable(url: str, error: psycopg.Error) -> DatabaseUnavailableError:
    """Return the error that says why a database can't be reached."""
    return DatabaseUnavailableError(
        f"the database can't be reached: {first_line(error)}",
        where=redacted(url),
        remedy="Check that the server runs and ROUTOO_DATABASE_URL names it",
    )


async def _ask_for_connection(pool: AsyncConnectionPool) -> None:
    """Ask a pool for a connection until there is one: it begins to open one when it is asked.

    Once would not do: it begins none while it tries another, which it may give up a moment later.
    """
    while not pool.closed:
        with suppress(psycopg.OperationalError):
            async with pool.connection(timeout=_RECONNECT_S / 4):
                return


async def _configure(conn: AsyncConnection) -> None:
    await conn.execute("SET timezone TO 'UTC'")
    await conn.commit()


def first_line(error: psycopg.Error) -> str:
    """Return the first line of what the driver says: DETAIL may repeat whole rows."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def libpq_url(url: str) -> str:
    """Return the URL as libpq reads it, without the driver that SQLAlchemy users add."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)


def with_password_apart(url: str) -> tuple[str, dict[str, str]]:
    """Return a URL without its password, and the environment of a program that needs it.

    Other users of the machine see a program's arguments, but not its environment.
    """
    parts = urlsplit(libpq_url(url))
    environment = dict(os.environ)
    if parts.password is None:
        return urlunsplit(parts), environment
    environment["PGPASSWORD"] = unquote(parts.password)
    user, _, host = parts.netloc.rpartition("@")
    netloc = f"{user.partition(':')[0]}@{host}"
    return urlunsplit(parts._replace(netloc=netloc)), environment


async def read_rows(database: Database, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Run one statement of a person in a transaction that can't write.

    Returns:
        Names of the columns, and the rows; both empty where the statement returns none.

    Raises:
        StoreError: The database refuses the statement.
    """
    async with database.transaction() as conn:
        await conn.execute("SET TRANSACTION READ ONLY")
        # Prepared: then it is one statement, and none can follow that ends the transaction.
        cursor = await conn.execute(sql.encode(), prepare=True)
        if cursor.description is None:
            return [], []
        return [column.name for column in cursor.description], await cursor.fetchall()


def redacted(url: str) -> str:
    """Return the URL without its password and query, fit for messages and logs."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return urlunsplit((parts.scheme, f"{name}@{host}" if name else host, parts.path, "", ""))


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
