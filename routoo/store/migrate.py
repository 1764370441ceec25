"""Migrates the schema: brings a database up to date, and says where it stands."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from routoo.errors import DatabaseUnavailableError, StoreError
from routoo.settings import REPOSITORY
from routoo.store.database import first_line, libpq_url, redacted

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
    with _connected(url) as connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
        connection.commit()  # the lock is the session's and outlives each migration's transaction
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    return head()


def current(url: str) -> str | None:
    """Return the revision of a database's schema, None where it has none yet.

    Raises:
        DatabaseUnavailableError: It can't be reached.
    """
    with _connected(url) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    """Return the newest revision that this code knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise StoreError("no migrations are installed", where=str(REPOSITORY / "migrations"))
    return revision


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(REPOSITORY / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    engine = create_engine(
        "postgresql+psycopg://",
        # libpq reads the URL itself, so every form of it means the same here and on hot paths.
        creator=lambda: psycopg.connect(libpq_url(url), connect_timeout=_CONNECT_TIMEOUT_S),
        poolclass=NullPool,
    )
    try:
        with engine.connect() as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise _unavailable(url, error) from error
    except SQLAlchemyError as error:
        if isinstance(error.__cause__, psycopg.OperationalError):
            raise _unavailable(url, error.__cause__) from error
        raise StoreError("a migration failed", where=redacted(url), value=str(error)) from error
    finally:
        engine.dispose()


def _unavailable(url: str, error: psycopg.Error) -> DatabaseUnavailableError:
    return DatabaseUnavailableError(
        f"the database can't be reached: {first_line(error)}",
        where=redacted(url),
        remedy="Check ROUTOO_DATABASE_URL and that the server runs",
    )
