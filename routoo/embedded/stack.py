"""Runs the embedded stack for as long as a program needs it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.server import EmbeddedServer
from routoo.embedded.valkey import EmbeddedValkey
from routoo.settings import Settings


@contextmanager
def embedded_stack(
    settings: Settings, *, database: bool = True, broker: bool = True
) -> Iterator[tuple[str, str]]:
    """Run the embedded servers that the settings ask for while the block runs.

    Args:
        settings: A server without a URL is embedded.
        database: Whether the database is needed.
        broker: Whether the broker is needed.

    Yields:
        URLs of the database and the broker. At the end the embedded servers are stopped, unless
        another process uses them.

    Raises:
        EmbeddedStackError: A server can't be started.
    """
    with ExitStack() as stack:
        for server in embedded_servers(settings, database=database, broker=broker):
            server.start()
            stack.callback(server.stop)
        yield database_url(settings), broker_url(settings)


def embedded_servers(
    settings: Settings, *, database: bool = True, broker: bool = True
) -> list[EmbeddedServer]:
    """Return the embedded servers that are needed and have no URL in the settings; starts none."""
    servers: list[EmbeddedServer] = []
    if database and settings.embedded_database:
        servers.append(EmbeddedPostgres(settings.home))
    if broker and settings.embedded_broker:
        servers.append(EmbeddedValkey(settings.home))
    return servers


def database_url(settings: Settings) -> str:
    """Return the database's URL; starts nothing."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return EmbeddedPostgres(settings.home).url


def broker_url(settings: Settings) -> str:
    """Return the broker's URL; starts nothing."""
    if settings.broker_url is not None:
        return settings.broker_url.get_secret_value()
    return EmbeddedValkey(settings.home).url
