"""Reserves the worst case of a call before it is sent; jobs queue where money is short."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, auto

from routoo.domain.completion import Reservation
from routoo.domain.job import ResultStatus
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_cost_usd
from routoo.pipeline.dispatch.group_commit import GroupCommit, ReservationStatus
from routoo.pipeline.dispatch.job_state import JobState
from routoo.ports import ChatClient, Permit


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


class NextStep(Enum):
    """What follows a step of a job."""

    ENDED = auto()
    """The job has its result."""
    LEFT_PENDING = auto()
    """No call may start now; the job has no result yet."""
    NEXT_MODEL = auto()
    """This model is not asked again."""
    AWAIT_MONEY = auto()
    """The money that is left covers no call now, and calls in flight may free some."""
    UNAVAILABLE = auto()
    """The model takes no calls for longer than the job waits; the next one is asked."""
    DENIED = auto()
    """The model denies every request; the next one is asked at once, to see whether all do."""
    ESCALATED = auto()
    """Its answer was judged: other candidates are asked now."""
    AGAIN = auto()
    """The call was not sent: it may cost more than was known when its money was reserved."""


@dataclass(frozen=True, slots=True)
class CallReserver:
    """Reserves money for the calls of one shard; all of its jobs share it."""

    client: ChatClient
    commit: GroupCommit
    money: MoneyQueue
    """The jobs that wait for money."""
    check_time: Callable[[JobState], NextStep | None]
    """Returns None while the shard is open and the job's deadline has not passed."""
    leave_for_money: Callable[[int, Decimal], None]
    """Notes that a job is left pending until others free so many USD."""

    async def reserve_and_start(
        self, state: JobState, permit: Permit, worst_case_usd: Decimal
    ) -> NextStep | None:
        """Reserve the call's worst case and wait for its turn; free the money if it isn't sent."""
        sent = refused = False
        try:
            step = await self._reserve(state, permit, worst_case_usd)
            refused = step is not None
            if step is None:
                await permit.start()
                await self.commit.allow_sending(state.job_no, state.attempts + 1)
                step = self.check_time(state)
                step = step or self._check_bound(state, permit, worst_case_usd)
                sent = step is None
        finally:
            if not sent and not refused:
                self.commit.release(state.job_no, state.attempts + 1)
        state.attempts += sent
        return step

    def _check_bound(
        self, state: JobState, permit: Permit, reserved_usd: Decimal
    ) -> NextStep | None:
        """Return None while what was reserved is what is now known that the call may cost."""
        known = self.client.behaviour.apply(permit.model)
        if known is permit.model:
            return None
        enough = bound_cost_usd(state.pending.job.body, known) <= reserved_usd
        return None if enough else NextStep.AGAIN

    async def _reserve(
        self, state: JobState, permit: Permit, worst_case_usd: Decimal
    ) -> NextStep | None:
        """Reserve the call's worst case; None where it is granted."""
        model, number = permit.model, state.attempts + 1
        reservation = Reservation(state.job_no, number, model.name, worst_case_usd)
        status = await self.commit.reserve(reservation, lambda: permit.starts_soon)
        if status is ReservationStatus.RETRY_SOON:
            return NextStep.AWAIT_MONEY
        self.money.leave(state.job_no)
        if status is ReservationStatus.GRANTED:
            return None
        if status is ReservationStatus.RETRY_LATER and not state.kept.has_good:
            self.leave_for_money(state.job_no, worst_case_usd)
            return NextStep.LEFT_PENDING
        if await self._lower_limit(state, model):
            return NextStep.AGAIN
        state.note_error(
            model,
            ResultStatus.BUDGET_EXHAUSTED,
            f"a call to {model.name} may cost ${worst_case_usd}, more than the batch's budget has "
            "left, or its key may spend today; raise budget_usd or lower max_tokens",
        )
        return NextStep.NEXT_MODEL

    async def _lower_limit(self, state: JobState, model: CandidateModel) -> bool:
        """Lower a limit of tokens that was raised to what the money that is left covers."""
        free_usd = await self.commit.free_usd() if state.cut_tokens else None
        known = self.client.behaviour.apply(model)
        return free_usd is not None and state.lower_limit(known, free_usd)
