"""Migrates the schema: brings a database up to date, and says where it stands.

Alembic and SQLAlchemy take a second of CPU time to import: they are loaded where there is a
migration to run, and not by a command that only finds its database up to date.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from routoo.errors import StoreError
from routoo.settings import REPOSITORY
from routoo.store.database import libpq_url, redacted, unavailable

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

_MIGRATIONS = REPOSITORY / "migrations"
_LOCK_KEY = 0x726F_7574_6F6F
"""Advisory lock of the migrations: the letters of the project's name."""

_CONNECT_TIMEOUT_S = 10


def upgrade(url: str) -> str:
    """Bring a database to the newest schema; any number of programs may do so at once.

    Args:
        url: The database.

    Returns:
        The revision it now has.

    Raises:
        DatabaseUnavailableError: It can't be reached.
        StoreError: A migration failed; the ones before it stand.
    """
    newest = head()
    if current(url) != newest:
        _run_migrations(url)
    return newest


def current(url: str) -> str | None:
    """Return the revision of a database's schema, None where it has none yet.

    Raises:
        DatabaseUnavailableError: It can't be reached.
    """
    try:
        with _connect(url) as conn:
            found = conn.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
            if found != (True,):
                return None
            row = conn.execute("SELECT version_num FROM alembic_version").fetchone()
            return None if row is None else str(row[0])
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error


def head() -> str:
    """Return the newest revision that this code knows.

    Migrations form one line, and each file's name begins with its revision.
    """
    names = [path.name for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")]
    if not names:
        raise StoreError("no migrations are installed", where=str(_MIGRATIONS))
    return max(names).partition("_")[0]


def _run_migrations(url: str) -> None:
    from alembic import command
    from sqlalchemy import text

    with _connected(url) as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
        connection.commit()  # the lock is the session's and outlives each migration's transaction
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _connected(url: str) -> Iterator["Connection"]:
    from sqlalchemy import NullPool, create_engine
    from sqlalchemy.exc import SQLAlchemyError

    # libpq reads the URL itself, so every form of it means the same here and on hot paths.
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: _connect(url), poolclass=NullPool
    )
    try:
        with engine.connect() as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise unavailable(url, error) from error
    except SQLAlchemyError as error:
        if isinstance(error.__cause__, psycopg.OperationalError):
            raise unavailable(url, error.__cause__) from error
        raise StoreError("a migration failed", where=redacted(url), value=str(error)) from error
    finally:
        engine.dispose()


def _connect(url: str) -> psycopg.Connection:
    return psycopg.connect(libpq_url(url), connect_timeout=_CONNECT_TIMEOUT_S)
