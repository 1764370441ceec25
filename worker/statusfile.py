"""Which processes a supervisor runs, in a file under its home, for people and tests."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Status:
    """What a supervisor says of itself."""

    supervisor: int
    """Its process id."""
    children: Mapping[str, int]
    """Process ids of the workers that run, by name (scorer-1, dispatcher-1, beat-1)."""
    ready: bool
    """Every worker consumes messages."""


def status_path(home: Path) -> Path:
    """Return where the file of the supervisor of this home stands while it runs."""
    return home / "worker.json"


def write_status(home: Path, status: Status) -> None:
    """Replace the file at once, so that a reader never sees half of it."""
    path = status_path(home)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(status)))
    draft.replace(path)


def remove_status(home: Path) -> None:
    """Remove the file of a supervisor that ends."""
    status_path(home).unlink(missing_ok=True)
