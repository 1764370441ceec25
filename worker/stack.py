"""The servers under the workers: embedded where no URL names others, migrated, one owner a home."""

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.valkey import EmbeddedValkey

from routoo.errors import EmbeddedStackError
from routoo.settings import Settings
from routoo.store.migrate import upgrade

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Urls:
    """Where the servers are."""

    database: str
    broker: str


@contextmanager
def open_stack(settings: Settings) -> Iterator[Urls]:
    """Start what is embedded, bring the schema up to date, and stop it all in the end.

    Raises:
        EmbeddedStackError: Another supervisor runs on this home, or a server can't start.
        StoreError: The database can't be reached or migrated.
    """
    with ExitStack() as stack:
        stack.enter_context(_home_owned(settings.home))
        database = _database(settings, stack)
        upgrade(database)
        yield Urls(database, _broker(settings, stack))


def _database(settings: Settings, stack: ExitStack) -> str:
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    server = EmbeddedPostgres(settings.home)
    stack.callback(server.stop)
    url = server.start()
    _log.info("postgres.started", home=str(settings.home))
    return url


def _broker(settings: Settings, stack: ExitStack) -> str:
    if settings.broker_url is not None:
        return settings.broker_url.get_secret_value()
    server = EmbeddedValkey(settings.home)
    stack.callback(server.stop)
    url = server.start()
    _log.info("valkey.started", home=str(settings.home))
    return url


@contextmanager
def _home_owned(home: Path) -> Iterator[None]:
    """Hold the home's lock; the kernel lets go of it however this process ends."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EmbeddedStackError(
                "another `routoo-worker up` runs on this home",
                where=str(home),
                remedy="Submit to that one, stop it, or set ROUTOO_HOME to another folder",
            ) from error
        yield
