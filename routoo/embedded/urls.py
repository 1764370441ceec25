"""URLs of the database and the broker: those of the settings, or the embedded ones."""

from routoo.embedded.postgres import EmbeddedPostgres
from routoo.embedded.valkey import EmbeddedValkey
from routoo.settings import Settings


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
