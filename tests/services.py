"""Real services for the tests: a PostgreSQL server and a broker, given by URL or embedded."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.valkey import EmbeddedValkey
from routoo.store.administration import upgrade

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Nothing here has to survive a loss of power."""


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a new folder with a path short enough for sockets, that servers of root can enter."""
    folder = Path(tempfile.mkdtemp(prefix="routoo-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def database_server(folder: Path) -> Iterator[str]:
    """Yield a URL with which databases can be created."""
    given = os.environ.get("ROUTOO_TEST_DATABASE_URL")
    if given:
        yield given
        return
    server = EmbeddedPostgres(folder, _FAST)
    try:
        yield server.start()
    finally:
        server.stop()


@contextmanager
def broker_server(folder: Path) -> Iterator[str]:
    """Yield the URL of a broker."""
    given = os.environ.get("ROUTOO_TEST_BROKER_URL")
    if given:
        yield given
        return
    server = EmbeddedValkey(folder, {"appendfsync": "no"})
    try:
        yield server.start()
    finally:
        server.stop()


_SCHEMA = """
    SELECT count(*), max(xmin::text::bigint) FROM pg_class
    WHERE relnamespace = to_regnamespace('public')
    UNION ALL SELECT count(*), max(xmin::text::bigint) FROM pg_constraint
    UNION ALL SELECT count(*), max(xmin::text::bigint) FROM pg_index
    UNION ALL SELECT count(*), max(xmin::text::bigint) FROM pg_proc
    UNION ALL SELECT count(*), max(xmin::text::bigint) FROM pg_rewrite
    UNION ALL SELECT count(*), max(xmin::text::bigint) FROM pg_trigger
    UNION ALL SELECT count(*), max(xmin::text::bigint) FROM alembic_version
"""
"""Changes with every change of the schema."""
_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = to_regnamespace('public') AND relkind = 'r'
    AND relname <> 'alembic_version'
"""
_RESTART = """
    SELECT setval(format('%I', sequencename), start_value, false)
    FROM pg_sequences WHERE schemaname = 'public' AND last_value IS NOT NULL
"""
_DISCONNECT = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s"
_MOST_ROWS = 20_000
"""A database that held more is not used again: statistics of its tables would linger."""


class Databases:
    """Migrated databases on one server, each a clone of a template."""

    def __init__(self, admin: psycopg.Connection, server_url: str) -> None:
        self._admin, self._server_url = admin, server_url
        # Several runs may share a server that was given by URL.
        self._prefix = f"routoo_test_{os.getpid()}_{os.urandom(3).hex()}"
        self._count = 0
        self._free: list[str] = []
        self._schema: list[Any] = []

    @contextmanager
    def template(self) -> Iterator[None]:
        """Keep a migrated database to clone from."""
        with self.empty(self._template) as url:
            upgrade(url)
            with psycopg.connect(url) as conn:
                self._schema = conn.execute(_SCHEMA.encode()).fetchall()
            try:
                yield
            finally:
                for name in self._free:
                    self._drop(name)

    @contextmanager
    def clone(self) -> Iterator[str]:
        """Yield the URL of a fresh migrated database.

        To copy a database and to drop it takes half a second of CPU time. So it is emptied and
        used again, under another name: who still knows the old one can't connect.
        """
        if self._free:
            name = self._free.pop()
        else:
            name = self._new_name()
            self._create(name, sql.SQL("TEMPLATE {}").format(sql.Identifier(self._template)))
        try:
            yield self._url(name)
        finally:
            self._take_back(name)

    @contextmanager
    def empty(self, name: str) -> Iterator[str]:
        """Yield the URL of a new database."""
        self._create(name, sql.SQL(""))
        try:
            yield self._url(name)
        finally:
            self._drop(name)

    @property
    def _template(self) -> str:
        return f"{self._prefix}_template"

    def _new_name(self) -> str:
        self._count += 1
        return f"{self._prefix}_{self._count}"

    def _url(self, name: str) -> str:
        return urlsplit(self._server_url)._replace(path=f"/{name}").geturl()

    def _create(self, name: str, options: sql.Composable) -> None:
        create = sql.SQL("CREATE DATABASE {} {}")
        self._admin.execute(create.format(sql.Identifier(name), options))

    def _drop(self, name: str) -> None:
        self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _take_back(self, name: str) -> None:
        rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
        kept = self._new_name()
        self._admin.execute(_DISCONNECT, [name])
        try:
            self._admin.execute(rename.format(sql.Identifier(name), sql.Identifier(kept)))
        except psycopg.errors.ObjectInUse:  # something connects again and again
            self._drop(name)
            return
        if self._emptied(kept):
            self._free.append(kept)
        else:
            self._drop(kept)

    def _emptied(self, name: str) -> bool:
        """Delete all rows, unless the schema was changed; tell whether the database is as new."""
        with psycopg.connect(self._url(name)) as conn:
            try:
                if conn.execute(_SCHEMA.encode()).fetchall() != self._schema:
                    return False
                conn.execute("SET LOCAL session_replication_role = replica")  # no trigger, no key
            except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
                return False
            tables = conn.execute(_TABLES.encode()).fetchall()
            delete = sql.SQL("DELETE FROM {}")
            rows = sum(
                conn.execute(delete.format(sql.Identifier(table))).rowcount for (table,) in tables
            )
            conn.execute(_RESTART.encode())
            return rows <= _MOST_ROWS


@contextmanager
def databases(server_url: str) -> Iterator[Databases]:
    """Yield the databases of a server, the template made."""
    with psycopg.connect(server_url, autocommit=True) as admin:
        found = Databases(admin, server_url)
        with found.template():
            yield found
