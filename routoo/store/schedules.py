"""Schedules and their firings: each instant is fired by one scheduler, however many run.

One clock counts: the database's. A firing is a row keyed by schedule and instant, written in the
transaction that begins the run, under a lock on the schedule: so it happens once or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from routoo.domain.calendar import Missed
from routoo.errors import InputError
from routoo.store import columns
from routoo.store.encoding import storable


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """What is to run when."""

    name: str
    eval_set: str | None
    """Name of the evaluation set; its newest version is run. None where batches are submitted."""
    cron: str
    time_zone: str
    missed: Missed
    pool: dict[str, Any]
    """Candidate models as JSON."""
    next_due_at: datetime
    batch: dict[str, Any] | None = None
    """What is submitted, and how, as JSON; None where evaluation runs are begun."""
    budget_usd: Decimal | None = None
    objective: dict[str, Any] | None = None
    """What its runs aim at as JSON; None for the most quality that the budget buys."""
    sample_size: int = 0
    sample_budget_usd: Decimal | None = None
    judge: dict[str, Any] | None = None
    rollback: bool = False
    """Whether worse quality brings the previous checkpoint back."""
    call_options: dict[str, Any] | None = None
    """How its runs' calls are made as JSON; None for the defaults."""


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """A schedule as the store knows it."""

    id: UUID
    name: str
    eval_set: str | None
    cron: str
    time_zone: str
    missed: Missed
    pool: dict[str, Any]
    budget_usd: Decimal | None
    objective: dict[str, Any] | None
    sample_size: int
    sample_budget_usd: Decimal | None
    judge: dict[str, Any] | None
    rollback: bool
    paused: bool
    next_due_at: datetime
    created_at: datetime
    call_options: dict[str, Any] | None
    batch: dict[str, Any] | None

    def __post_init__(self) -> None:
        """Parse what the database keeps as text."""
        object.__setattr__(self, "missed", Missed(self.missed))


@dataclass(frozen=True, slots=True)
class Firing:
    """One instant at which a schedule was due, and what came of it."""

    schedule_id: UUID
    due_at: datetime
    outcome: str
    """submitted, skipped or failed."""
    owner: str
    missed: int = 0
    """Earlier instants that passed unattended and are not run."""
    run_id: UUID | None = None
    detail: str | None = None
    fired_at: datetime | None = None
    """When a scheduler took it; the database's clock where unset."""


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """A batch that a firing submitted."""

    batch_id: UUID
    schedule_id: UUID
    due_at: datetime
    source: str
    """The file, or `query` for what a query returned."""
    job_count: int
    content_sha256: str | None = None
    """Of the file, where it is submitted once."""


async def add(conn: AsyncConnection, new: NewSchedule) -> None:
    """Write a schedule.

    Raises:
        InputError: There is one of this name.
    """
    values = {field.name: getattr(new, field.name) for field in fields(NewSchedule)}
    values |= {"id": uuid4(), "pool": Jsonb(new.pool)}
    for name in ("objective", "judge", "call_options", "batch"):
        values[name] = None if values[name] is None else Jsonb(values[name])
    query = columns.insert("schedules", values, "ON CONFLICT (name) DO NOTHING")
    cursor = await conn.execute(query, values)
    if not cursor.rowcount:
        raise InputError(
            "there is a schedule of this name",
            value=new.name,
            remedy="Remove it first, or choose another name",
        )


async def get(conn: AsyncConnection, schedule_id: UUID) -> ScheduleRecord:
    """Return a schedule.

    Raises:
        NotFoundError: There is none with this id.
    """
    return _only(await _select(conn, "WHERE id = %s", [schedule_id]), str(schedule_id))


async def find(conn: AsyncConnection, name: str) -> ScheduleRecord:
    """Return a schedule by its name, locked until the transaction ends.

    Raises:
        NotFoundError: There is none.
    """
    return _only(await _select(conn, "WHERE name = %s FOR NO KEY UPDATE", [name]), name)


def _only(found: Sequence[ScheduleRecord], value: str) -> ScheduleRecord:
    remedy = "`routoo-producer schedule list` shows them"
    return columns.only(found, "schedule", value, remedy=remedy)


async def list_all(conn: AsyncConnection) -> list[ScheduleRecord]:
    """Return every schedule, by name."""
    return await _select(conn, "ORDER BY name", [])


async def claim(conn: AsyncConnection, schedule_id: UUID) -> ScheduleRecord | None:
    """Lock a schedule until the transaction ends; None where another has it or it is paused."""
    condition = "WHERE id = %s AND NOT paused FOR NO KEY UPDATE SKIP LOCKED"
    found = await _select(conn, condition, [schedule_id])
    return found[0] if found else None


async def now(conn: AsyncConnection) -> datetime:
    """Return the time by the one clock that counts."""
    cursor = await conn.execute("SELECT clock_timestamp()")
    instant: datetime = (await cursor.fetchall())[0][0]
    return instant


async def fired_after(conn: AsyncConnection, schedule_id: UUID, after: datetime) -> set[datetime]:
    """Return the instants after one that have been fired already: a clock may have gone back."""
    cursor = await conn.execute(
        "SELECT due_at FROM schedule_firings WHERE schedule_id = %s AND due_at > %s",
        [schedule_id, after],
    )
    return {row[0] async for row in cursor}


async def save_firing(conn: AsyncConnection, firing: Firing) -> None:
    """Write a firing; the key refuses a second one of the same instant."""
    values = {name: getattr(firing, name) for name in columns.names(Firing) if name != "fired_at"}
    values["detail"] = storable(firing.detail)
    await conn.execute(columns.insert("schedule_firings", values), values)


async def save_batches(conn: AsyncConnection, found: Sequence[ScheduledBatch]) -> None:
    """Write the batches of a firing that is saved."""
    for one in found:
        values = columns.values_of(one)
        await conn.execute(columns.insert("schedule_batches", values), values)


async def batches_of(
    conn: AsyncConnection, schedule_id: UUID, due_at: Sequence[datetime]
) -> list[ScheduledBatch]:
    """Return the batches of some firings of a schedule."""
    source = "schedule_batches WHERE schedule_id = %s AND due_at = ANY(%s) ORDER BY due_at, source"
    return await columns.select(conn, ScheduledBatch, source, [schedule_id, list(due_at)])


async def is_submitted(
    conn: AsyncConnection, schedule_id: UUID, source: str, content_sha256: str
) -> bool:
    """Return whether a schedule submitted a file before, as it is now."""
    cursor = await conn.execute(
        """
        SELECT EXISTS (SELECT FROM schedule_batches
            WHERE schedule_id = %s AND source = %s AND content_sha256 = %s)
        """,
        [schedule_id, source, content_sha256],
    )
    return bool((await cursor.fetchall())[0][0])


async def last_firings(conn: AsyncConnection) -> dict[UUID, Firing]:
    """Return the latest firing of each schedule, by the schedule's key."""
    source = """
        (SELECT DISTINCT ON (schedule_id) * FROM schedule_firings
         ORDER BY schedule_id, due_at DESC) AS latest
    """
    return {one.schedule_id: one for one in await columns.select(conn, Firing, source, [])}


async def move(conn: AsyncConnection, schedule_id: UUID, next_due_at: datetime) -> None:
    """Set the next instant to fire at."""
    await conn.execute(
        "UPDATE schedules SET next_due_at = %s WHERE id = %s", [next_due_at, schedule_id]
    )


async def pause(conn: AsyncConnection, schedule_id: UUID, *, paused: bool) -> None:
    """Pause a schedule, or let it fire again."""
    await conn.execute("UPDATE schedules SET paused = %s WHERE id = %s", [paused, schedule_id])


async def remove(conn: AsyncConnection, schedule_id: UUID) -> None:
    """Remove a schedule and its firings; its runs stay."""
    await conn.execute("DELETE FROM schedules WHERE id = %s", [schedule_id])


async def history(conn: AsyncConnection, schedule_id: UUID, limit: int) -> list[Firing]:
    """Return a schedule's firings, latest first."""
    source = "schedule_firings WHERE schedule_id = %s ORDER BY due_at DESC LIMIT %s"
    return await columns.select(conn, Firing, source, [schedule_id, limit])


async def _select(
    conn: AsyncConnection, condition: str, values: Sequence[Any]
) -> list[ScheduleRecord]:
    return await columns.select(conn, ScheduleRecord, f"schedules {condition}", values)
