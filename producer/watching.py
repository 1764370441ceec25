"""Follows a batch until it is over."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from producer.notice import note
from producer.progress import Snapshot, take_snapshot
from routoo.errors import DatabaseUnavailableError
from routoo.store.batches import BatchRecord
from routoo.store.database import Database

_POLL_S = 0.5
_PATIENCE_S = 60.0
"""A database that restarts is waited for this long."""
_WINDOW_S = 30.0


@dataclass(slots=True)
class Pace:
    """Estimates the time left from the jobs that ended in the last half minute."""

    _points: deque[tuple[float, int]] = field(default_factory=deque)

    def eta_s(self, now_s: float, ended: int, jobs: int) -> float | None:
        """Take a point and return the seconds until all jobs have ended, None before a rate."""
        self._points.append((now_s, ended))
        while len(self._points) > 1 and now_s - self._points[0][0] > _WINDOW_S:
            self._points.popleft()
        first_s, first_ended = self._points[0]
        if ended <= first_ended:
            return None
        return (jobs - ended) * (now_s - first_s) / (ended - first_ended)


async def follow(
    database: Database, batch: BatchRecord
) -> AsyncIterator[tuple[Snapshot, float | None]]:
    """Yield how a batch stands, about twice a second, with the seconds left; the last when over.

    Raises:
        DatabaseUnavailableError: The database was away for a minute.
    """
    pace = Pace()
    last_answer_s = time.monotonic()
    while True:
        try:
            async with database.transaction() as conn:
                snapshot = await take_snapshot(conn, batch)
        except DatabaseUnavailableError as error:
            if time.monotonic() - last_answer_s > _PATIENCE_S:
                raise
            note(f"trying again: {error}")
        else:
            last_answer_s = time.monotonic()
            now = snapshot.progress
            yield snapshot, pace.eta_s(last_answer_s, now.ended, now.jobs)
            if snapshot.is_over:
                return
        await asyncio.sleep(_POLL_S)
