"""What a check found, and what earlier checks found out for it."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from routoo.client.ping import Ping
from routoo.domain.pool import Pool
from routoo.errors import RoutooError
from routoo.settings import Settings
from routoo.store.database import ServerHealth
from worker.roles import Role


class Health(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    """It works, and may not go on to."""
    BROKEN = "broken"
    """Batches can't be served so."""
    NOT_CHECKED = "not checked"
    """Something before it is broken, or it was not asked for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    health: Health
    found: str
    remedy: str | None = None
    """What to do about it, a sentence without its full stop."""

    def line(self) -> str:
        """Return it as text for people, the remedy in a line of its own."""
        text = f"{self.health:<12} {self.check:<12} {self.found}"
        return text if self.remedy is None else f"{text}\n{'':<26}-> {self.remedy}."


@dataclass(slots=True, kw_only=True)
class Known:
    """What is examined, and what the checks so far have found out."""

    settings: Settings
    pool_file: Path | None
    """None where no pool is named: that of the newest batch is looked at, else the example's."""
    roles: frozenset[Role]
    """What this machine is to run."""
    calls: bool
    """Whether to make one short call to each model, which costs money."""
    environ: Mapping[str, str]
    """Where keys and settings are looked up."""
    exits: ExitStack
    """Stops embedded servers in the end."""
    url: str | None = None
    """The database's, once it answered."""
    server: ServerHealth | None = None
    is_migrated: bool = False
    pool: Pool | None = None
    is_example: bool = False
    """Whether the pool is the example's, which nobody named."""
    pings: list[Ping] | None = None


def of_error(check: str, error: RoutooError, before: str = "") -> Finding:
    """Return what an error says as a finding: it is broken."""
    where = f"{error.where}: " if error.where else ""
    value = f" (got {error.value!r})" if error.value is not None else ""
    return Finding(check, Health.BROKEN, f"{before}{where}{error.what}{value}", error.remedy)


def waits(check: str, what: str) -> Finding:
    """Return that a check can't be made before something else is in order."""
    return Finding(check, Health.NOT_CHECKED, f"waits for {what}")
