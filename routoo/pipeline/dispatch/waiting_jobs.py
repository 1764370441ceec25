"""The jobs of a shard that can't be called for now, and what they wait for: endpoints or money.

Once all that are left wait for endpoints that stay away, for slots or limits per minute that other
shards use up, or for money that others hold, the shard is put off: its worker is free for other
shards meanwhile.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal

from routoo.domain.absence import SHORT_WAIT_S, Absence
from routoo.domain.completion import Result
from routoo.domain.pool import CandidateModel
from routoo.pipeline.dispatch.job_state import JobState
from routoo.store.put_off import WaitsFor
from routoo.store.shards import HandedBack

_LONGEST_WAIT_S = 300.0
"""A shard that is put off is due again after so long, whatever it waits for, in seconds."""
_MONEY_WAIT_S = 60.0
"""The same for money: what others spend may leave too little for ever."""


class MoneyQueue:
    """The queue of a shard's jobs whose call the money that is left does not cover now.

    One job of each model tries again at a time, in the order in which they came.

    Calls in flight free money as they end. If every waiting job asked for it again and again, the
    ledger would have work to do for all of them; so only the first in the queue does, and the
    others wait behind it, without a slot of an endpoint.
    """

    def __init__(self) -> None:
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._first: dict[int, str] = {}

    async def wait(self, job_no: int, model: str) -> bool:
        """Wait until a job is the first in its model's queue.

        Returns:
            Whether it was the first before: then its last try failed, and it waits for freed money.
        """
        if self._first.get(job_no) == model:
            return True
        self.leave(job_no)
        await self._turns[model].acquire()
        self._first[job_no] = model
        return False

    def leave(self, job_no: int) -> None:
        """Let the next job in the queue try, if this one was the first."""
        model = self._first.pop(job_no, None)
        if model is not None:
            self._turns[model].release()


@dataclass(frozen=True, slots=True)
class _Wait:
    model: CandidateModel
    is_long_until_s: float
    """Until then it is worth giving the worker back, by the loop's clock."""
    ends_s: float


@dataclass(slots=True)
class WaitingJobs:
    """Knows of each open job of a shard whether it waits, by the job's number."""

    closing: asyncio.Event
    """Set when no new call may start; put off, a shard sets it too."""
    record: Callable[[Result], None]
    """Records the result of a job."""
    put_off: set[int] = field(default_factory=set)
    """Jobs left pending until an endpoint works, or others free money."""
    _left: list[JobState] = field(default_factory=list)
    _is_cancelled: bool = False
    _open: set[int] = field(default_factory=set)
    _waits: dict[int, _Wait] = field(default_factory=dict)
    _endpoints: set[str] = field(default_factory=set)
    _usd: Decimal | None = None
    _wait_s: float = _LONGEST_WAIT_S
    _starts: set[asyncio.Timeout] = field(default_factory=set)
    """Limits of the time that jobs wait to start a call."""

    def begin(self, job_no: int) -> None:
        """Count a job as open: it is answered now, or will be."""
        self._open.add(job_no)

    def end(self, job_no: int) -> None:
        """Count a job as ended, or as left pending."""
        self._open.discard(job_no)
        self._waits.pop(job_no, None)

    def go_on(self, job_no: int) -> None:
        """Note that a job waits for its model no longer."""
        self._waits.pop(job_no, None)

    def wait_for(self, job_no: int, model: CandidateModel, absence: Absence, ends_s: float) -> bool:
        """Note that a job waits for a model; put the shard off if all open jobs wait for long.

        Args:
            job_no: The job.
            model: Takes no calls.
            absence: Why.
            ends_s: When the job has something else to do at the latest, in seconds from now.

        Returns:
            Whether the shard was put off.
        """
        self._waits[job_no] = _Wait(model, math.inf if absence.is_long else -math.inf, ends_s)
        return self._put_off()

    def wait_in_line(self, job_no: int, model: CandidateModel, queue_s: float) -> bool:
        """Note that a job waits for the slots or limits per minute of its model's endpoints.

        It does so until `go_on`; the shard is put off as for `wait_for`: other shards use all that
        those limits allow. A shard whose jobs have come to the front is not.

        Args:
            job_no: The job.
            model: Takes calls, and others come first.
            queue_s: How long those take at least, in seconds.

        Returns:
            Whether the shard was put off.
        """
        if queue_s <= SHORT_WAIT_S:
            return False
        long_until_s = asyncio.get_running_loop().time() + queue_s - SHORT_WAIT_S
        self._waits[job_no] = _Wait(model, long_until_s, ends_s=_LONGEST_WAIT_S)
        return self._put_off()

    def _put_off(self) -> bool:
        """Put the shard off if all open jobs wait for long; return whether they do."""
        if len(self._waits) < len(self._open):
            return False
        now_s = asyncio.get_running_loop().time()
        if not all(now_s < wait.is_long_until_s for wait in self._waits.values()):
            return False
        for wait in self._waits.values():
            self._endpoints.update(wait.model.endpoint_keys)
            self._wait_s = min(self._wait_s, wait.ends_s)
        self.put_off.update(self._waits)
        self.closing.set()
        return True

    def leave_for_money(self, job_no: int, usd: Decimal) -> None:
        """Note that a job is left pending until others free money for its worst case."""
        self.put_off.add(job_no)
        self._usd = usd if self._usd is None else min(self._usd, usd)
        self._wait_s = min(self._wait_s, _MONEY_WAIT_S)

    def leave(self, state: JobState) -> None:
        """Take a job that was left pending; it ends if the batch is being cancelled."""
        self._left.append(state)
        if self._is_cancelled:
            self.cancel_left()

    def cancel_left(self) -> None:
        """End the jobs for which no call is made any more: their batch is being cancelled."""
        self._is_cancelled = True
        for state in self._left:
            if not state.kept.answers:  # that of a probe may become the result
                self.record(state.cancellation())
        self._left.clear()

    @asynccontextmanager
    async def until_start(self, left_s: float | None) -> AsyncIterator[asyncio.Timeout]:
        """Limit the wait for a call to start; it ends when the shard closes, too.

        Args:
            left_s: Seconds until the job's deadline; None without one.

        Raises:
            TimeoutError: The wait ended so.
        """
        async with asyncio.timeout(0.0 if self.closing.is_set() else left_s) as limit:
            self._starts.add(limit)
            try:
                yield limit
            finally:
                self._starts.discard(limit)

    def start(self, limit: asyncio.Timeout) -> None:
        """Lift the limit: the call is sent, and has a limit of its own."""
        self._starts.discard(limit)
        limit.reschedule(None)

    async def end_starts(self) -> None:
        """End the wait of all calls that have not started once the shard closes."""
        await self.closing.wait()
        for limit in self._starts:
            if not limit.expired():
                limit.reschedule(0.0)

    @property
    def outcome(self) -> HandedBack:
        """How the shard is handed back, now that no job of it is at work."""
        if not self.put_off:
            return HandedBack()
        waits_for = WaitsFor(frozenset(self._endpoints), self._usd)
        return HandedBack(max(1.0, self._wait_s), waits_for)
