"""The doctor's checks: of servers and settings, of the pool and the checkpoint, of the machine.

Each is a generator of findings, given its name and what is known so far.
"""

import asyncio
import difflib
import os
import resource
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from psycopg import AsyncConnection

from routoo.client.access import check_variables
from routoo.client.endpoints import ChatEndpoints
from routoo.client.http import HttpClient
from routoo.client.ping import ping
from routoo.client.token_counts import TokenCounters
from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.pool_file import load_pool
from routoo.embedded.stack import broker_url, database_url, embedded_servers
from routoo.errors import ConfigError, EndpointError, InputError, RoutooError
from routoo.settings import Settings
from routoo.store import administration, batches, checkpoints, workers
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database, check_reachable, redacted, server_health
from worker import queue
from worker.doctor.finding import Finding, Health, Known, of_error, waits
from worker.roles import Role, connections
from worker.webhooks import check_webhook

_PREFIX = "ROUTOO_"
_OTHER_VARIABLES = ("ROUTOO_API_KEY", "ROUTOO_DEMO", "ROUTOO_DATA_DIR", "ROUTOO_CHAOS")
"""Variables that clients, the example and tests read, and no setting is."""
_TESTS = "ROUTOO_TEST_"
_Answer = TypeVar("_Answer")


def check_settings(name: str, known: Known) -> Iterator[Finding]:
    """Look for variables that are no settings, and settings that lack their counterpart."""
    settings = {f"{_PREFIX}{field.upper()}" for field in Settings.model_fields}
    given = [one for one in known.environ if one.startswith(_PREFIX)]
    others = (one for one in given if one not in settings and one not in _OTHER_VARIABLES)
    for unknown in sorted(one for one in others if not one.startswith(_TESTS)):
        near = difflib.get_close_matches(unknown, settings, 1)
        remedy = f"Write {near[0]}" if near else "Unset it, or see the list of settings"
        yield Finding(name, Health.WARNING, f"there is no setting {unknown}", remedy)
    if Role.BEAT in known.roles:
        try:
            check_webhook(known.settings)
        except (ConfigError, InputError) as error:
            yield of_error(name, error, "the beat refuses to start: ")
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
    known.server = asyncio.run(_asked(url, server_health))
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
    revision, newest = administration.current_revision(known.url), administration.newest_revision()
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
    return asyncio.run(_asked(known.url or "", workers.live_counts))


async def _asked(url: str, ask: Callable[[AsyncConnection], Awaitable[_Answer]]) -> _Answer:
    """Return what the database answers."""
    await check_reachable(url)
    async with Database(url, max_size=1) as db, db.transaction() as conn:
        return await ask(conn)


_DATABASE_CLOCK_S = 2.0
_ENDPOINT_CLOCK_S = 5.0
"""A Date header is whole seconds, and comes some time after it was written."""
_SPARE_FILES = 128
"""Files that a process holds open beside its calls and its connections: libraries, logs, pipes."""
_SPARE_CONNECTIONS = 20
"""Connections of a gateway and some commands."""
_GIB = 2**30
_LOW_MEMORY_BYTES, _NO_MEMORY_BYTES = 2 * _GIB, _GIB // 2
_LOW_DISK_BYTES, _NO_DISK_BYTES = 5 * _GIB, _GIB // 2


def check_clock(name: str, known: Known) -> Iterator[Finding]:
    """Compare this clock with the database's and the endpoints'."""
    clocks = {}
    if known.server is not None:
        clocks["the database's"] = (known.server.clock_ahead_s, _DATABASE_CLOCK_S)
    for one in known.pings or ():
        if one.clock_ahead_s is not None:
            whose = f"that of {one.base_url.partition('?')[0]}"
            clocks[whose] = (one.clock_ahead_s, _ENDPOINT_CLOCK_S)
    if not clocks:
        yield waits(name, "the database or an endpoint")
        return
    apart = {whose: ahead for whose, (ahead, most) in clocks.items() if abs(ahead) > most}
    for whose, ahead_s in apart.items():
        found = f"this machine's is {_seconds(-ahead_s)} {whose}"
        remedy = "Let NTP set the clocks: deadlines and schedules go by them"
        yield Finding(name, Health.WARNING, found, remedy)
    if not apart:
        yield Finding(name, Health.OK, f"agrees with {', '.join(clocks)}")


def check_open_files(name: str, known: Known) -> Iterator[Finding]:
    """Compare the files that a process may open with what the calls of the pool need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    models = () if known.pool is None else known.pool.models
    slots = sum(one.max_concurrency for model in models for one in model.all_endpoints)
    needed = slots + _most_connections(known, dict.fromkeys(Role, 1)) + _SPARE_FILES
    if 0 <= soft < needed:
        remedy = f"Run `ulimit -n {needed}` before the workers, or set systemd's LimitNOFILE"
        if 0 <= hard < needed:
            remedy += "; its hard limit must be raised too"
        found = f"{soft} may be open, and {needed} are needed for {slots} calls at once"
        yield Finding(name, Health.BROKEN, found, remedy)
    else:
        yield Finding(name, Health.OK, f"{soft} may be open, {needed} are needed")


def _most_connections(known: Known, counts: Mapping[Role, int]) -> int:
    return sum(connections(role, known.settings) * count for role, count in counts.items())


def check_connections(name: str, known: Known) -> Iterator[Finding]:
    """Compare the database's connections with what the workers open at most."""
    if known.server is None:
        yield waits(name, "the database")
        return
    live = live_workers(known) if known.is_migrated else {}
    counts = {role: max(1, live.get(role.value, 0)) for role in Role}
    needed = _most_connections(known, counts) + _SPARE_CONNECTIONS
    usable = known.server.usable_connections
    what = ", ".join(f"{count} {role.value}" for role, count in counts.items())
    found = f"the database has {usable}, {known.server.used_connections} in use; "
    found += f"{what}, a gateway and commands open {needed} at most"
    if needed > usable:
        remedy = f"Set max_connections of PostgreSQL to {needed + 20}, or lower "
        remedy += "ROUTOO_DISPATCH_THREADS"
        yield Finding(name, Health.BROKEN, found, remedy)
    else:
        yield Finding(name, Health.OK, found)


def check_memory(name: str, _: Known) -> Iterator[Finding]:
    """Look how much memory is free."""
    free = available_memory_bytes()
    if free is None:
        yield Finding(name, Health.NOT_CHECKED, "this system doesn't say how much is free")
        return
    remedy = "A scorer takes 0.5 to 1 GB, and a dispatcher 0.5 GB with 100,000 jobs"
    yield _free(name, free, _LOW_MEMORY_BYTES, _NO_MEMORY_BYTES, remedy)


def check_disk(name: str, known: Known) -> Iterator[Finding]:
    """Look whether the home folder can be written to, and how much is free there."""
    folder = known.settings.home
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        remedy = "Let its owner give you the right to write, or set ROUTOO_HOME"
        yield Finding(name, Health.BROKEN, f"{folder} can't be written to", remedy)
    remedy = "Free some, set ROUTOO_BATCH_RETENTION_DAYS, or set ROUTOO_HOME to another disk"
    free = shutil.disk_usage(folder).free
    yield _free(name, free, _LOW_DISK_BYTES, _NO_DISK_BYTES, remedy, f" under {folder}")


def available_memory_bytes() -> int | None:
    """Return how much memory a new process can have, in bytes; None where nothing tells it.

    It is what the system has available, or what is left of the control group's limit (version 2).
    """
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        used = (group / "memory.current").read_text(encoding="ascii")
        found += [] if most == "max" else [int(most) - int(used)]
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def _free(name: str, free: int, low: int, none: int, remedy: str, where: str = "") -> Finding:
    found = f"{free / _GIB:.1f} GiB free{where}"
    if free >= low:
        return Finding(name, Health.OK, found)
    return Finding(name, Health.BROKEN if free < none else Health.WARNING, found, remedy)


def _seconds(ahead_s: float) -> str:
    return f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"


_PING_TIMEOUT_S = 5.0
_CALL_TIMEOUT_S = 60.0


def check_pool(name: str, known: Known) -> Iterator[Finding]:
    """Read the pool, and look for the keys and tokenizers that it names."""
    if known.pool_file is None:
        yield _look_for_pool(name, known)
    else:
        known.pool = load_pool(known.pool_file)
        count = len(known.pool.models)
        yield Finding(name, Health.OK, f"{known.pool_file}: {count} models, all priced")
    if Role.DISPATCHER in known.roles and known.pool is not None:
        check_variables(known.pool.models, known.environ)
        TokenCounters().load(known.pool.models)


def _look_for_pool(name: str, known: Known) -> Finding:
    """Take the newest batch's pool, else the example's where it is there."""
    newest = _newest_batch(known) if known.is_migrated else None
    if newest is not None:
        known.pool = newest.pool
        count = len(newest.pool.models)
        found = f"none is named: that of the newest batch {newest.name}, {count} models"
        return Finding(name, Health.OK, found)
    remedy = "Name yours by --pool or ROUTOO_POOL"
    if not known.settings.pool.is_file():
        return Finding(name, Health.NOT_CHECKED, "none is named", remedy)
    known.pool, known.is_example = load_pool(known.settings.pool), True
    found = f"none is named, so the example's is looked at: {known.settings.pool}"
    return Finding(name, Health.WARNING, found, remedy)


def _newest_batch(known: Known) -> BatchRecord | None:
    async def read() -> list[BatchRecord]:
        async with Database(known.url or "", max_size=1) as db, db.transaction() as conn:
            return await batches.list_recent(conn, 1)

    return next(iter(asyncio.run(read())), None)


def check_checkpoint(name: str, known: Known) -> Iterator[Finding]:
    """Read the checkpoint in use, and compare it with the pool and its backbone."""
    from routoo.predictor.backbone.language_model import find_backbone  # torch
    from routoo.predictor.checkpoint import read_checkpoint  # the same
    from routoo.predictor.predictor import check_backbone  # the same

    folder, origin = _checkpoint_in_use(known)
    manifest = read_checkpoint(folder).manifest
    yield Finding(name, Health.OK, f"{folder} ({origin}), {len(manifest.models)} models")
    if known.pool is not None:
        wanted = dict.fromkeys(model.predicted_as for model in known.pool.models)
        unknown = [one for one in wanted if one not in manifest.models]
        if unknown:
            found = f"it doesn't know {', '.join(unknown)} of the pool, which runs on priors"
            remedy = "Learn its models by `routoo onboard`; `routoo pool priors` shows the priors"
            yield Finding(name, Health.WARNING, found, remedy)
    check_backbone(find_backbone(manifest.backbone), manifest)


def _checkpoint_in_use(known: Known) -> tuple[Path, str]:
    if known.is_migrated:
        promoted = asyncio.run(_asked(known.url or "", checkpoints.promoted))
        if promoted is not None:
            return Path(promoted.path), "promoted"
    return known.settings.checkpoint, "ROUTOO_CHECKPOINT"


def check_endpoints(name: str, known: Known) -> Iterator[Finding]:
    """Ask every endpoint for its list of models, which costs nothing."""
    if known.pool is None:
        yield waits(name, "the pool")
        return
    timeout_s = known.settings.ping_timeout_s or _PING_TIMEOUT_S
    asked = ping(
        known.pool.models,
        timeout_s=timeout_s,
        environ=known.environ,
        blocked=known.settings.blocked_networks,
    )
    known.pings = asyncio.run(asked)
    for one in known.pings:
        what = f"{', '.join(one.models)} at {one.base_url.partition('?')[0]}"
        if one.is_unknown:
            found = f"{what}: not asked, since its key or proxy is not set"
            yield Finding(name, Health.NOT_CHECKED, found)
        elif one.problem is not None:
            remedy = "Start it, or correct base_url, key or proxy in the pool"
            health = Health.WARNING if known.is_example else Health.BROKEN
            yield Finding(name, health, f"{what}: {one.problem}", remedy)
        else:
            yield Finding(name, Health.OK, f"{what}: answers")


def check_calls(name: str, known: Known) -> Iterator[Finding]:
    """Call every model once, where that was asked for."""
    if not known.calls:
        found = "no model was called: --call asks each for one token, which costs money"
        yield Finding(name, Health.NOT_CHECKED, found)
    elif known.pool is None:
        yield waits(name, "the pool")
    else:
        yield from asyncio.run(_call_each(name, known.pool, known))


async def _call_each(name: str, pool: Pool, known: Known) -> list[Finding]:
    """Make a call of one token to each model, all at once."""

    async def call(model: CandidateModel) -> Finding:
        body = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 1}
        try:
            done = await endpoints.complete(model, body, timeout_s=_CALL_TIMEOUT_S)
        except EndpointError as error:
            return of_error(name, error, f"{model.name}: ")
        except RoutooError as error:
            return Finding(name, Health.NOT_CHECKED, f"{model.name}: {error.what}", error.remedy)
        cost_usd = done.usage.cost_usd(model)
        found = f"{model.name}: answered in {done.latency_s:.1f} s for {cost_usd:f} USD"
        return Finding(name, Health.OK, found)

    http = HttpClient(blocked=known.settings.blocked_networks)
    async with ChatEndpoints(environ=known.environ, http=http) as endpoints:
        return list(await asyncio.gather(*map(call, pool.models)))
