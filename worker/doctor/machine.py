"""Checks the machine: its clock, open files, database connections, memory and disk."""

import os
import resource
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from worker.doctor.checks import live_workers
from worker.doctor.finding import Finding, Health, Known, waits
from worker.roles import Role, connections

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
