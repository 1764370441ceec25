"""Makes every check in turn.

Each is a line of its own, and one that can't be made says what it waits for: so a database that is
down hides nothing else. Nothing is changed, and nothing is spent unless it is asked for.
"""

import importlib.util
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from routoo.errors import RoutooError
from routoo.settings import Settings, load_settings
from worker.doctor import checks
from worker.doctor.finding import Finding, Health, Known, of_error
from worker.roles import Role

_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""OpenTelemetry's own, the stronger first."""
_COLLECTOR = "http://localhost:4318"
"""Where OpenTelemetry sends traces by default."""
_PORTS = {"http": 80, "https": 443}
_CONNECT_TIMEOUT_S = 3.0


def check_traces(name: str, known: Known) -> Iterator[Finding]:
    """Look whether traces can be sent, where they are wanted."""
    if not known.settings.traces:
        return
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        remedy = 'Install it with `pip install "routoo[otel]"`, or unset ROUTOO_TRACES'
        yield Finding(name, Health.BROKEN, "OpenTelemetry is not installed", remedy)
        return
    named = [known.environ[one] for one in _VARIABLES if known.environ.get(one)]
    url = urlsplit(named[0] if named else _COLLECTOR)
    port = url.port or _PORTS.get(url.scheme, 0)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=_CONNECT_TIMEOUT_S):
            found = f"the collector at {url.hostname}:{port} takes connections"
            yield Finding(name, Health.OK, found)
    except OSError as error:
        found = f"no collector at {url.hostname}:{port}: {error.strerror or error}"
        remedy = "Start it, or correct OTEL_EXPORTER_OTLP_ENDPOINT; batches run without traces"
        yield Finding(name, Health.WARNING, found, remedy)


_CHECKS = {
    "settings": checks.check_settings,
    "database": checks.check_database,
    "migrations": checks.check_migrations,
    "broker": checks.check_broker,
    "workers": checks.check_workers,
    "traces": check_traces,
    "pool": checks.check_pool,
    "checkpoint": checks.check_checkpoint,
    "endpoints": checks.check_endpoints,
    "calls": checks.check_calls,
    "clock": checks.check_clock,
    "open files": checks.check_open_files,
    "connections": checks.check_connections,
    "memory": checks.check_memory,
    "disk": checks.check_disk,
}
_OF_ROLES = {
    "checkpoint": {Role.SCORER},
    "calls": {Role.DISPATCHER},
    "endpoints": {Role.DISPATCHER},
}
"""Checks that matter to some roles only."""


def examine_environment(
    pool_file: Path | None, *, roles: frozenset[Role] = frozenset(Role), calls: bool = False
) -> Iterator[Finding]:
    """Examine this machine by the settings of its environment, as `examine` does.

    Where these can't be read, that is the only finding: everything else depends on them.
    """
    try:
        settings = load_settings()
    except RoutooError as error:
        yield of_error("settings", error)
        return
    named = settings.pool if "pool" in settings.model_fields_set else None
    yield from examine(settings, pool_file or named, roles=roles, calls=calls)


def examine(
    settings: Settings,
    pool_file: Path | None,
    *,
    roles: frozenset[Role] = frozenset(Role),
    calls: bool = False,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Finding]:
    """Examine this machine, and yield what each check found as soon as it is known.

    Args:
        settings: Those of this machine.
        pool_file: The candidate models; if unset, those of the newest batch, else the example's.
        roles: What this machine is to run.
        calls: Whether to make one short call to each model, which costs money.
        environ: Where keys are looked up; the process's environment if unset.
    """
    with ExitStack() as exits:
        known = Known(
            settings=settings,
            pool_file=pool_file,
            roles=roles,
            calls=calls,
            environ=os.environ if environ is None else environ,
            exits=exits,
        )
        for name, check in _CHECKS.items():
            if not roles.isdisjoint(_OF_ROLES.get(name, roles)):
                yield from _guarded(name, check(name, known))


def _guarded(name: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings; an error that ends the check is one, too."""
    try:
        yield from findings
    except RoutooError as error:
        yield of_error(name, error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        yield Finding(name, Health.BROKEN, f"{where}{error.strerror or error}")
