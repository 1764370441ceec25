"""Fires schedules: each due time of a schedule begins one evaluation run, or submits batches.

Any number of schedulers may run. A firing, its run or batches, and the schedule's next due time are
written in one transaction under a lock on the schedule: so exactly one scheduler fires, and one
that dies in between has fired nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from psycopg import AsyncConnection
from pydantic import ValidationError

from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.calendar import Calendar, Missed
from routoo.domain.pool import Pool
from routoo.errors import DatabaseUnavailableError, RoutooError
from routoo.evaluation_runs.begin import RunRequest, begin_run
from routoo.store import schedules
from routoo.store.database import Database
from routoo.store.evaluation import eval_sets
from routoo.store.schedules import Firing, ScheduledBatch, ScheduleRecord

ON_TIME = timedelta(minutes=5)
"""A firing that is later than this was missed."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """What came of a due time."""

    run_id: UUID | None = None
    batches: tuple[ScheduledBatch, ...] = ()
    outcome: str = "submitted"
    """submitted, skipped or failed."""
    detail: str | None = None
    """What was left out, and why."""


Begin = Callable[[AsyncConnection, ScheduleRecord, datetime], Awaitable[Begun]]
"""Does in a transaction what a schedule asks for; the instant is when it was due."""


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Fires the schedules that are due; several processes may have one each.

    One that knows how to submit batches fires those of batches, any other those of evaluations.
    """

    owner: str
    """Name of this scheduler in the history of firings."""
    shard_size: int
    """Maximum number of jobs in a shard of what it begins."""
    submit: Begin | None = None
    """Submits the batches of a schedule."""

    async def fire_due(self, db: Database) -> list[UUID]:
        """Fire every schedule that is due and that no other process is firing.

        Returns:
            The ids of the runs that it began, or of the batches that it submitted.
        """
        async with db.transaction() as conn:
            now = await schedules.now(conn)
            found = [one for one in await schedules.list_all(conn) if self._is_ours(one)]
        begun = [await self._fire_alone(db, one) for one in found if _is_due(one, now)]
        return [one for ids in begun for one in ids]

    def _is_ours(self, schedule: ScheduleRecord) -> bool:
        return not schedule.paused and (schedule.batch is None) == (self.submit is None)

    async def _fire_alone(self, db: Database, seen: ScheduleRecord) -> list[UUID]:
        """Fire a schedule; whatever it breaks holds up no other one, and is tried again."""
        try:
            return await self._fire(db, seen)
        except DatabaseUnavailableError:
            raise
        except Exception:  # noqa: BLE001 - see above
            _log.exception("schedule.failed", schedule=seen.name)
            return []

    async def _fire(self, db: Database, seen: ScheduleRecord) -> list[UUID]:
        async with db.transaction() as conn:
            schedule = await schedules.claim(conn, seen.id)
            if schedule is None:
                return []
            now = await schedules.now(conn)
            firing: Firing | None = None
            batches: tuple[ScheduledBatch, ...] = ()
            if schedule.next_due_at <= now:
                firing, batches = await self._outcome(conn, schedule, now)
                await schedules.save_firing(conn, firing)
                await schedules.save_batches(conn, batches)
            after = now if firing is None else firing.due_at
            await schedules.move(conn, schedule.id, await _next_unfired(conn, schedule, after))
        if firing is None:
            return []
        _log.info(
            "schedule.fired", schedule=schedule.name, due_at=firing.due_at.isoformat(),
            outcome=firing.outcome, missed=firing.missed, batches=len(batches),
            # That of batches may quote rows.
            detail=firing.detail if schedule.batch is None else None,
        )  # fmt: skip
        run_ids = [] if firing.run_id is None else [firing.run_id]
        return [*run_ids, *(one.batch_id for one in batches)]

    async def _outcome(
        self, conn: AsyncConnection, schedule: ScheduleRecord, now: datetime
    ) -> tuple[Firing, tuple[ScheduledBatch, ...]]:
        calendar = Calendar(schedule.cron, schedule.time_zone)
        # Counting the minutes of a year takes seconds, so a thread does it.
        due_at, missed = await asyncio.to_thread(calendar.latest_due, schedule.next_due_at, now)
        if now - due_at > ON_TIME and schedule.missed is Missed.SKIP:
            text = f"nobody was there until {now:%Y-%m-%d %H:%M:%S} UTC"
            return Firing(schedule.id, due_at, "skipped", self.owner, missed, detail=text), ()
        try:
            # A savepoint: where nothing can be begun, the firing is still saved.
            async with conn.transaction():
                begun = await self._begin(conn, schedule, due_at)
        except DatabaseUnavailableError:
            raise
        # A file or folder may be closed to the beat, and the pool be of another version's form.
        except (RoutooError, OSError, ValidationError) as error:
            begun = Begun(outcome="failed", detail=str(error))
        facts = begun.outcome, self.owner, missed, begun.run_id, begun.detail
        return Firing(schedule.id, due_at, *facts), begun.batches

    async def _begin(
        self, conn: AsyncConnection, schedule: ScheduleRecord, due_at: datetime
    ) -> Begun:
        if self.submit is not None:
            return await self.submit(conn, schedule, due_at)
        return Begun(await begin_scheduled(conn, schedule, due_at, self.shard_size))


async def begin_scheduled(
    conn: AsyncConnection, schedule: ScheduleRecord, due_at: datetime, shard_size: int
) -> UUID:
    """Begin a schedule's run of the newest version of its evaluation set.

    Raises:
        NotFoundError: The set does not exist any more.
    """
    request = RunRequest(
        Pool.model_validate(schedule.pool),
        name=f"{schedule.name} {due_at:%Y-%m-%d %H:%M}",
        budget_usd=schedule.budget_usd,
        objective=Objective.from_json(schedule.objective),
        call_options=CallOptions.from_json(schedule.call_options),
        sample_size=schedule.sample_size,
        sample_budget_usd=schedule.sample_budget_usd,
        judge=schedule.judge,
        schedule_id=schedule.id,
    )
    eval_set = await eval_sets.find(conn, schedule.eval_set or "")
    return await begin_run(conn, eval_set, request, shard_size=shard_size)


def _is_due(schedule: ScheduleRecord, now: datetime) -> bool:
    """Return whether a schedule is due, or its due time is too late since the clock went back."""
    if schedule.next_due_at <= now:
        return True
    return Calendar(schedule.cron, schedule.time_zone).next_after(now) < schedule.next_due_at


async def _next_unfired(
    conn: AsyncConnection, schedule: ScheduleRecord, after: datetime
) -> datetime:
    """Return the next due time; one that fired before the clock was put back is skipped."""
    calendar = Calendar(schedule.cron, schedule.time_zone)
    fired = await schedules.fired_after(conn, schedule.id, after)
    following = calendar.next_after(after)
    while following in fired:
        following = calendar.next_after(following)
    return following
