"""States what the client needs of whatever runs its batches: the database, or a gateway."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from producer.client.options import BatchOptions, Rows
from producer.client.records import BatchState, Plan, Result


@dataclass(frozen=True, slots=True)
class Submitted:
    """A batch that is known to the backend now."""

    batch_id: str
    notes: tuple[str, ...] = ()
    """What was found beside: rows left out, fields not used, a key that was known."""


class Backend(Protocol):
    """Runs batches. Batches are named by id."""

    async def open(self) -> None:
        """Connect; called once, before anything else."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...

    async def submit(self, rows: Rows, options: BatchOptions, *, plan_only: bool) -> Submitted:
        """Submit rows, or let them be planned only."""
        ...

    async def submit_plan(self, batch_id: str) -> None:
        """Run exactly what was planned."""
        ...

    async def plan(self, batch_id: str) -> Plan:
        """Return the plan of a batch, once it is made."""
        ...

    async def state(self, batch_id: str) -> BatchState:
        """Return the batch now."""
        ...

    def results(self, batch_id: str, *, in_order: bool) -> AsyncGenerator[Result, None]:
        """Yield every job's result, as it comes or in input order, until the batch is over."""
        ...

    async def pause(self, batch_id: str) -> None:
        """Let no new call start."""
        ...

    async def resume(self, batch_id: str, budget_usd: Decimal | None) -> None:
        """Let a paused batch go on, or give it another budget."""
        ...

    async def retry(self, batch_id: str) -> None:
        """Open the jobs without an answer again."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """End a batch; the answers so far are kept."""
        ...

    async def find(self, text: str | None) -> str:
        """Return the id of a batch named by id, start of an id, or name; None is the latest."""
        ...

    async def recent(self, limit: int) -> Sequence[str]:
        """Return the ids of the newest batches, newest first."""
        ...
