"""Checks settings, the database, its schema, the broker, and which workers live."""

import asyncio
import difflib
from collections.abc import Iterator

from routoo.embedded.stack import broker_url, database_url, embedded_servers
from routoo.settings import Settings
from routoo.store import migrate, workers
from routoo.store.database import Database, check_reachable, redacted
from routoo.store.server_health import ServerHealth, server_health
from worker import queue
from worker.doctor.finding import Finding, Health, Known, waits
from worker.roles import Role

_PREFIX = "ROUTOO_"
_OTHER_VARIABLES = ("ROUTOO_API_KEY", "ROUTOO_DEMO", "ROUTOO_DATA_DIR", "ROUTOO_CHAOS")
"""Variables that clients, the example and tests read, and no setting is."""
_TESTS = "ROUTOO_TEST_"


def check_settings(name: str, known: Known) -> Iterator[Finding]:
    """Look for variables that are no settings, and settings that lack their counterpart."""
    settings = {f"{_PREFIX}{field.upper()}" for field in Settings.model_fields}
    given = [one for one in known.environ if one.startswith(_PREFIX)]
    others = (one for one in given if one not in settings and one not in _OTHER_VARIABLES)
    for unknown in sorted(one for one in others if not one.startswith(_TESTS)):
        near = difflib.get_close_matches(unknown, settings, 1)
        remedy = f"Write {near[0]}" if near else "Unset it, or see the list of settings"
        yield Finding(name, Health.WARNING, f"there is no setting {unknown}", remedy)
    if known.settings.webhook_url and known.settings.webhook_secret is None:
        remedy = "Set ROUTOO_WEBHOOK_SECRET, so that its receiver can tell who sent them"
        yield Finding(name, Health.WARNING, "alerts are sent without a signature", remedy)
    yield from _check_urls(name, known)
    yield Finding(name, Health.OK, f"{len(settings.intersection(given))} set, the rest default")


def _check_urls(name: str, known: Known) -> Iterator[Finding]:
    """Look whether roles that run by themselves have servers that others reach too."""
    urls = {
        "ROUTOO_DATABASE_URL": known.settings.database_url,
        "ROUTOO_BROKER_URL": known.settings.broker_url,
    }
    unset = [variable for variable, url in urls.items() if url is None]
    if unset and known.roles != frozenset(Role):
        found = f"{' and '.join(unset)} unset: embedded servers serve `routoo-worker up` alone"
        remedy = "Set both, or leave --role out"
        yield Finding(name, Health.WARNING, found, remedy)


def check_database(name: str, known: Known) -> Iterator[Finding]:
    """Connect to the database; an embedded one is started as long as this takes."""
    _start_embedded(known, database=True)
    url = database_url(known.settings)
    known.server = asyncio.run(_health_of(url))
    known.url = url
    kind = "embedded" if known.settings.embedded_database else redacted(url)
    yield Finding(name, Health.OK, f"{kind}, PostgreSQL {known.server.version}")
    if known.server.is_read_only:
        remedy = "Name the primary server in ROUTOO_DATABASE_URL"
        yield Finding(name, Health.BROKEN, "it takes no writes: a replica?", remedy)
    if not known.server.is_durable:
        remedy = "Turn on fsync, full_page_writes and synchronous_commit"
        found = "what it commits may be lost with its power, money that was spent too"
        yield Finding(name, Health.WARNING, found, remedy)


def _start_embedded(known: Known, *, database: bool) -> None:
    """Start an embedded server for as long as this examination takes, as commands do."""
    settings = known.settings
    for server in embedded_servers(settings, database=database, broker=not database):
        server.start()
        known.exits.callback(server.stop)


def check_migrations(name: str, known: Known) -> Iterator[Finding]:
    """Compare the database's schema with the newest one."""
    if known.url is None:
        yield waits(name, "the database")
        return
    revision, newest = migrate.current(known.url), migrate.head()
    known.is_migrated = revision == newest
    if known.is_migrated:
        yield Finding(name, Health.OK, f"revision {revision}, the newest")
        return
    found = f"revision {revision or 'none'}, and this code needs {newest}"
    if revision is not None and revision > newest:
        remedy = "Install the newer version of Routoo that migrated the database"
    else:
        remedy = "Run `routoo db upgrade`"
    if known.settings.embedded_database:
        yield Finding(name, Health.OK, f"{found}: `routoo-worker up` migrates it")
    else:
        yield Finding(name, Health.BROKEN, found, remedy)


def check_broker(name: str, known: Known) -> Iterator[Finding]:
    """Connect to the broker; an embedded one is started as long as this takes."""
    _start_embedded(known, database=False)
    queue.check_broker(broker_url(known.settings))
    kind = "embedded" if known.settings.embedded_broker else redacted(broker_url(known.settings))
    yield Finding(name, Health.OK, f"{kind}, answers")


def check_workers(name: str, known: Known) -> Iterator[Finding]:
    """Look which workers have reported lately."""
    if not known.is_migrated:
        yield waits(name, "the database's newest schema")
        return
    live = live_workers(known)
    missing = sorted(role.value for role in Role if role.value not in live)
    found = ", ".join(f"{count} {role}" for role, count in sorted(live.items())) or "none lives"
    remedy = f"Start {', '.join(missing)}, or `routoo-worker up`" if missing else None
    yield Finding(name, Health.WARNING if missing else Health.OK, found, remedy)


def live_workers(known: Known) -> dict[str, int]:
    """Return how many workers of each role live."""

    async def read() -> dict[str, int]:
        async with Database(known.url or "", max_size=1) as db, db.transaction() as conn:
            return await workers.live_counts(conn)

    return asyncio.run(read())


async def _health_of(url: str) -> ServerHealth:
    await check_reachable(url)
    async with Database(url, max_size=1) as db, db.transaction() as conn:
        return await server_health(conn)
