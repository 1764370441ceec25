"""Real services for the tests: a PostgreSQL server and a broker, given by URL or embedded."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.valkey import EmbeddedValkey
from routoo.store.migrate import upgrade

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


class Databases:
    """Migrated databases on one server, each a clone of a template."""

    def __init__(self, admin: psycopg.Connection, server_url: str) -> None:
        self._admin, self._server_url = admin, server_url
        # Several runs may share a server that was given by URL.
        self._prefix = f"routoo_test_{os.getpid()}_{os.urandom(3).hex()}"
        self._count = 0

    @contextmanager
    def template(self) -> Iterator[None]:
        """Keep a migrated database to clone from."""
        with self.empty(f"{self._prefix}_template") as url:
            upgrade(url)
            yield

    @contextmanager
    def clone(self) -> Iterator[str]:
        """Yield the URL of a fresh migrated database."""
        self._count += 1
        template = sql.Identifier(f"{self._prefix}_template")
        with self.empty(
            f"{self._prefix}_{self._count}", sql.SQL("TEMPLATE {}").format(template)
        ) as url:
            yield url

    @contextmanager
    def empty(self, name: str, options: sql.Composable | None = None) -> Iterator[str]:
        """Yield the URL of a new database."""
        database = sql.Identifier(name)
        self._admin.execute(
            sql.SQL("CREATE DATABASE {} {}").format(database, options or sql.SQL(""))
        )
        try:
            yield urlsplit(self._server_url)._replace(path=f"/{name}").geturl()
        finally:
            self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))


@contextmanager
def databases(server_url: str) -> Iterator[Databases]:
    """Yield the databases of a server, the template made."""
    with psycopg.connect(server_url, autocommit=True) as admin:
        found = Databases(admin, server_url)
        with found.template():
            yield found
