"""One job, from its chosen model to its one result: calls, retries, fallbacks."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, auto
from itertools import chain
from random import Random

from routoo.client.retry import backoff_s
from routoo.domain.completion import Reservation
from routoo.domain.job import PendingJob, ResultStatus
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import (
    bound_completion_tokens,
    bound_prompt_tokens,
    estimate_call_tokens,
)
from routoo.errors import EndpointClosedError, EndpointError
from routoo.pipeline.dispatch.accounting import Tally, expiry, failure
from routoo.pipeline.dispatch.group_commit import Books, Grant
from routoo.pipeline.dispatch.hedge import Answer, Call, Latencies, race
from routoo.pipeline.dispatch.settling import settle
from routoo.ports import ChatClient, Permit

_OUTAGE_PUT_OFF_S = 10.0
"""A job whose endpoints have all failed for so long leaves its place to others, in seconds."""
OUTAGE_PATIENCE_S = 900.0
"""A job whose endpoints have all failed for so long fails with them, in seconds."""
_MONEY_POLL_S = 0.2


class _Step(Enum):
    """What follows an attempt."""

    ENDED = auto()
    """The job has its result."""
    DRAINED = auto()
    """No new call may start now; the job stays pending."""
    NEXT_MODEL = auto()
    CLOSED = auto()
    """The model's endpoints keep failing and are left alone for now."""


@dataclass(frozen=True, slots=True)
class Answerer:
    """Answers jobs of one shard; shared by all of them."""

    client: ChatClient
    books: Books
    closing: asyncio.Event
    """Set when no new call may start."""
    max_attempts_per_model: int
    final_filters: frozenset[str] = frozenset()
    """Names of models after whose content filter no other model is asked."""
    latencies: Latencies = field(default_factory=Latencies)
    called: set[int] = field(default_factory=set)
    """Numbers of the jobs that were ever admitted: their money may be set aside."""
    put_off: set[int] = field(default_factory=set)
    """Numbers of the jobs left pending for an endpoint, or for money, that others must free."""
    rng: Random = field(default_factory=Random)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def answer(self, pending: PendingJob, candidates: Sequence[CandidateModel]) -> bool:
        """Ask the candidates in turn until one answers.

        Args:
            pending: The job.
            candidates: The chosen model first, then the fallbacks in order.

        Returns:
            True when the job has its result, which the books still have to write, False when it was
            left pending.

        Raises:
            StoreError: The books can't be kept, or another worker owns the shard.
        """
        tally = Tally(pending.attempts, pending.cost_usd)
        # Whoever finds an endpoint closed falls back; if nobody else answers, the job waits for it.
        closed: list[CandidateModel] = []
        for number, model in enumerate(chain(candidates, closed)):
            if model.context_window_tokens <= tally.outgrown_tokens:
                continue
            step = await self._ask(pending, model, tally, patient=number >= len(candidates))
            if step is _Step.CLOSED:
                closed.append(model)
            elif step is not _Step.NEXT_MODEL:
                return step is _Step.ENDED
            if tally.is_filtered and tally.model in self.final_filters:
                break
        self.books.record(failure(pending, tally))
        return True

    async def _ask(
        self, pending: PendingJob, model: CandidateModel, tally: Tally, *, patient: bool
    ) -> _Step:
        """Ask one model until it answers or has failed too often."""
        attempt = 1
        while attempt <= self.max_attempts_per_model:
            outage_s = self.client.outage_s(model)
            if outage_s and not patient:
                return _Step.CLOSED
            if outage_s > OUTAGE_PATIENCE_S:
                break
            if outage_s > _OUTAGE_PUT_OFF_S:
                return self._put_off(pending)
            step, error = await self._attempt(pending, model, tally, retry=attempt > 1)
            if step is not None:
                return step
            if error is None:
                continue
            if not error.retryable:
                break
            if self.client.outage_s(model):
                continue  # a job that finds an outage out is not to blame for it
            if attempt < self.max_attempts_per_model:
                await self._pause(
                    backoff_s(attempt, retry_after_s=error.retry_after_s, rng=self.rng)
                )
            attempt += 1
        return _Step.NEXT_MODEL

    async def _attempt(
        self, pending: PendingJob, model: CandidateModel, tally: Tally, *, retry: bool
    ) -> tuple[_Step | None, EndpointError | None]:
        """Make one call; return what follows, or else its error, None where none was made."""
        worst_case_usd = _worst_case_usd(pending, model)
        tokens = estimate_call_tokens(pending.job.body, model)
        try:
            async with self.client.admit(model, tokens, retry=retry) as permit:
                self.called.add(pending.job.job_no)
                step = await self._before_call(pending, permit, tally, worst_case_usd)
                if step is not None:
                    return step, None
                answer, hedge = await self._call_hedged(pending, permit, tally, worst_case_usd)
        except EndpointClosedError as closed:
            tally.blame(model, closed.code, str(closed))
            return self._check(pending, tally), None
        first = Call(tally.attempts, worst_case_usd, permit.model, answer)
        error = settle(self.books, pending, tally, [first, hedge])
        return (None, error) if error else (_Step.ENDED, None)

    async def _before_call(
        self, pending: PendingJob, permit: Permit, tally: Tally, worst_case_usd: Decimal
    ) -> _Step | None:
        """Return None when the call may be sent now, its worst case reserved."""
        step = self._check(pending, tally)
        if step is not None:
            return step
        model, cap = permit.model, pending.job.sla.max_cost_usd
        if cap is not None and tally.cost_usd + worst_case_usd > cap:
            tally.blame(
                model,
                "max_cost_exceeded",
                f"{model.name} may cost ${worst_case_usd}, more than is left of max_cost_usd",
            )
            return _Step.NEXT_MODEL
        return await self._reserve_and_start(pending, permit, tally, worst_case_usd)

    def _check(self, pending: PendingJob, tally: Tally) -> _Step | None:
        """Return None while calls may start."""
        if self.closing.is_set():
            return _Step.DRAINED
        deadline = pending.job.sla.deadline
        if deadline is not None and self.now() >= deadline:
            self.books.record(expiry(pending, tally))
            return _Step.ENDED
        return None

    async def _reserve_and_start(
        self, pending: PendingJob, permit: Permit, tally: Tally, worst_case_usd: Decimal
    ) -> _Step | None:
        """Set the call's money aside and wait for its turn; what is not sent frees its money."""
        sent = refused = False
        try:
            step = await self._reserve(pending, permit.model, tally, worst_case_usd)
            refused = step is not None
            if step is None:
                await permit.start()
                step = self._check(pending, tally)
                sent = step is None
        finally:
            if not sent and not refused:
                self.books.release(pending.job.job_no, tally.attempts + 1)
        tally.attempts += sent
        return step

    async def _reserve(
        self, pending: PendingJob, model: CandidateModel, tally: Tally, worst_case_usd: Decimal
    ) -> _Step | None:
        reservation = Reservation(
            pending.job.job_no, tally.attempts + 1, model.name, worst_case_usd
        )
        while (grant := await self.books.reserve(reservation)) is Grant.WAIT:
            await self._pause(_MONEY_POLL_S)
            if self.closing.is_set():
                return _Step.DRAINED
        if grant is Grant.GRANTED:
            return None
        if grant is Grant.LATER:
            return self._put_off(pending)
        tally.blame(
            model,
            ResultStatus.BUDGET_EXHAUSTED,
            f"a call to {model.name} may cost ${worst_case_usd}, more than the batch's budget "
            "has left; raise budget_usd or lower max_tokens",
        )
        return _Step.NEXT_MODEL

    def _put_off(self, pending: PendingJob) -> _Step:
        """Leave a job pending, so that its shard holds no worker while it can't be served."""
        self.put_off.add(pending.job.job_no)
        return _Step.DRAINED

    async def _call(self, pending: PendingJob, permit: Permit) -> Answer:
        timeout_s = self._timeout_s(pending, permit.model)
        try:
            completion = await self.client.complete(
                permit.model, pending.job.body, timeout_s=timeout_s
            )
        except EndpointError as error:
            return error
        permit.used(completion.usage.total_tokens)
        self.latencies.note(permit.model, completion.latency_s)
        return completion

    async def _call_hedged(
        self, pending: PendingJob, permit: Permit, tally: Tally, worst_case_usd: Decimal
    ) -> tuple[Answer | None, Call | None]:
        """Make a call, and a second one where it is slow; None stands for what was cancelled."""
        delay_s = self.latencies.hedge_after_s(pending, permit.model)
        cap, doubled_usd = pending.job.sla.max_cost_usd, tally.cost_usd + 2 * worst_case_usd
        if delay_s is None or (cap is not None and doubled_usd > cap):
            return await self._call(pending, permit), None
        hedge = Call(tally.attempts + 1, worst_case_usd)
        second = self._hedge(pending, permit.model, hedge, delay_s)
        return await race(self._call(pending, permit), second, hedge), hedge

    async def _hedge(
        self, pending: PendingJob, model: CandidateModel, hedge: Call, delay_s: float
    ) -> None:
        """Wait, then make the second call if money, endpoint and batch let it."""
        await asyncio.sleep(delay_s)
        job_no, tokens = pending.job.job_no, estimate_call_tokens(pending.job.body, model)
        wanted = Reservation(job_no, hedge.attempt_no, model.name, hedge.worst_case_usd)
        set_aside = False
        try:
            # As a retry: hedges draw on the same budget, so that a slow endpoint is not stormed.
            async with self.client.admit(model, tokens, retry=True) as permit:
                set_aside = True
                set_aside = await self.books.reserve(wanted) is Grant.GRANTED
                if set_aside:
                    await permit.start()
                    if not self.closing.is_set():
                        hedge.model = permit.model
                        hedge.answer = await self._call(pending, permit)
        except EndpointClosedError:
            pass  # the first call stands alone
        finally:
            if hedge.model is None and set_aside:
                self.books.release(job_no, hedge.attempt_no)

    def _timeout_s(self, pending: PendingJob, model: CandidateModel) -> float:
        sla, limits_s = pending.job.sla, [model.endpoint.timeout_s]
        if sla.max_latency_s is not None:
            limits_s.append(sla.max_latency_s)
        if sla.deadline is not None:
            limits_s.append((sla.deadline - self.now()).total_seconds())
        return max(0.001, min(limits_s))

    async def _pause(self, delay_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), delay_s)


def _worst_case_usd(pending: PendingJob, model: CandidateModel) -> Decimal:
    body = pending.job.body
    return model.cost_usd(bound_prompt_tokens(body, model), bound_completion_tokens(body, model))
