"""Fires schedules: each due time of a schedule begins one evaluation run.

Any number of schedulers may run. A firing, its run and the schedule's next due time are written in
one transaction under a lock on the schedule: so exactly one scheduler fires, and one that dies in
between has fired nothing.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.calendar import Calendar, Missed
from routoo.domain.pool import Pool
from routoo.errors import DatabaseUnavailableError, RoutooError
from routoo.evaluation_runs.begin import RunRequest, begin_run
from routoo.store import schedules
from routoo.store.database import Database
from routoo.store.evaluation import eval_sets
from routoo.store.schedules import Firing, ScheduleRecord

ON_TIME = timedelta(minutes=5)
"""A firing that is later than this was missed."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Fires the schedules that are due; several processes may have one each."""

    owner: str
    """Name of this scheduler in the history of firings."""
    shard_size: int
    """Maximum number of jobs in a shard of the runs it begins."""

    async def fire_due(self, db: Database) -> list[UUID]:
        """Fire every schedule that is due and that no other process is firing.

        Returns:
            The ids of the runs that it began.
        """
        async with db.transaction() as conn:
            now = await schedules.now(conn)
            found = [one for one in await schedules.list_all(conn) if not one.paused]
        begun = [await self._fire(db, one) for one in found if _is_due(one, now)]
        return [run_id for run_id in begun if run_id is not None]

    async def _fire(self, db: Database, seen: ScheduleRecord) -> UUID | None:
        async with db.transaction() as conn:
            schedule = await schedules.claim(conn, seen.id)
            if schedule is None:
                return None
            now = await schedules.now(conn)
            firing = None
            if schedule.next_due_at <= now:
                firing = await self._outcome(conn, schedule, now)
                await schedules.save_firing(conn, firing)
            after = now if firing is None else firing.due_at
            await schedules.move(conn, schedule.id, await _next_unfired(conn, schedule, after))
        if firing is None:
            return None
        _log.info(
            "schedule.fired", schedule=schedule.name, due_at=firing.due_at.isoformat(),
            outcome=firing.outcome, missed=firing.missed, detail=firing.detail,
        )  # fmt: skip
        return firing.run_id

    async def _outcome(
        self, conn: AsyncConnection, schedule: ScheduleRecord, now: datetime
    ) -> Firing:
        calendar = Calendar(schedule.cron, schedule.time_zone)
        # Counting the minutes of a year takes seconds, so a thread does it.
        due_at, missed = await asyncio.to_thread(calendar.latest_due, schedule.next_due_at, now)
        if now - due_at > ON_TIME and schedule.missed is Missed.SKIP:
            text = f"nobody was there until {now:%Y-%m-%d %H:%M:%S} UTC"
            return Firing(schedule.id, due_at, "skipped", self.owner, missed, detail=text)
        try:
            async with (
                conn.transaction()
            ):  # a savepoint: if the run fails to begin, the firing is still saved
                run_id = await begin_scheduled(conn, schedule, due_at, self.shard_size)
        except DatabaseUnavailableError:
            raise
        except RoutooError as error:
            return Firing(schedule.id, due_at, "failed", self.owner, missed, detail=str(error))
        return Firing(schedule.id, due_at, "submitted", self.owner, missed, run_id)


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
    eval_set = await eval_sets.find(conn, schedule.eval_set)
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
