"""Makes a job's call, and hedges it: a slow call gets a second one, and the first answer wins.

Source: Dean and Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013: a second
request after the 95th percentile adds about 5 % of calls and takes most of the tail away.
"""

import asyncio
import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from routoo.domain.completion import Completion, Reservation
from routoo.domain.job import PendingJob
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_cost_usd, estimate_call_tokens
from routoo.errors import EndpointClosedError, EndpointError
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.pipeline.dispatch.pending_writes import ReservationStatus
from routoo.ports import ChatClient, Permit
from routoo.tracing import note, span

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Answer = Completion | EndpointError
"""What a call returned; a completion that a content filter cut is a completion."""
_RECENT_CALLS = 200
_FEWEST_CALLS = 20
"""With fewer calls their 95th percentile is not known."""


@dataclass(frozen=True, slots=True)
class CallLatencies:
    """Recent latencies of calls by model; says when a call is slow."""

    known_p95_s: Mapping[str, float] = field(default_factory=dict)
    """95th percentile by model, in seconds; holds until this shard has made enough calls."""
    _recent_s: dict[str, deque[float]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=_RECENT_CALLS))
    )

    def note(self, model: CandidateModel, latency_s: float) -> None:
        """Record the latency of an answer, in seconds."""
        self._recent_s[model.name].append(latency_s)

    def hedge_after_s(self, pending: PendingJob, model: CandidateModel) -> float | None:
        """Return after how many seconds a call gets a second one; None where it gets none.

        Only jobs with a latency limit are hedged, and only if the limit leaves time for it.
        """
        limit_s = pending.job.sla.max_latency_s
        if limit_s is None:
            return None
        recent_s = self._recent_s[model.name]
        if len(recent_s) >= _FEWEST_CALLS:
            p95_s: float | None = statistics.quantiles(recent_s, n=20)[-1]
        else:
            p95_s = self.known_p95_s.get(model.name)
        return p95_s if p95_s is not None and p95_s < limit_s else None


@dataclass(slots=True)
class Call:
    """One of the calls that are made for a job at the same time."""

    attempt_no: int
    worst_case_usd: Decimal
    model: CandidateModel | None = None
    """The model asked, with the endpoint that was called; None until the call is sent."""
    answer: Answer | None = None
    """None where the call was cancelled before its end."""


@dataclass(frozen=True, slots=True)
class HedgedCaller:
    """Makes calls for the jobs of one shard, each with a hedge if it is slow."""

    client: ChatClient
    commit: GroupCommit
    closing: asyncio.Event
    """Set when no new call may start."""
    latencies: CallLatencies
    now: Callable[[], datetime]

    async def call(
        self, pending: PendingJob, permit: Permit, first: Call, *, hedge_allowed: bool
    ) -> Call | None:
        """Make a call whose worst case is reserved and whose permit was started.

        Args:
            pending: The job.
            permit: The first call's permit.
            first: The call; its model and answer are set.
            hedge_allowed: Whether the job's own cost limit covers a second call.

        Returns:
            The hedge, whether it was sent or not; None where none was needed.
        """
        first.model = permit.model
        delay_s = self.latencies.hedge_after_s(pending, permit.model)
        if delay_s is None or not hedge_allowed:
            first.answer = await self._send(pending, permit)
            return None
        hedge = Call(first.attempt_no + 1, first.worst_case_usd)
        second = self._send_hedge(pending, permit.model, hedge, delay_s)
        first.answer = await _race(self._send(pending, permit), second, hedge)
        return hedge

    async def _send(self, pending: PendingJob, permit: Permit) -> Answer:
        timeout_s = self._timeout_s(pending, permit.model)
        with span("call", job=pending.job.job_no, model=permit.model.name) as traced:
            try:
                completion = await self.client.complete(
                    permit.model, pending.job.body, timeout_s=timeout_s
                )
            except EndpointError as error:
                note(traced, failure=error.code, http_status=error.http_status)
                return error.detached()  # it is kept while the job waits for its next attempt
            _note_completion(traced, completion)
        permit.used(completion.usage.total_tokens)
        self.latencies.note(permit.model, completion.latency_s)
        return completion

    async def _send_hedge(
        self, pending: PendingJob, model: CandidateModel, hedge: Call, delay_s: float
    ) -> None:
        """Wait, then make the second call if budget, endpoint and batch allow it."""
        await asyncio.sleep(delay_s)
        job_no, tokens = pending.job.job_no, estimate_call_tokens(pending.job.body, model)
        wanted = Reservation(job_no, hedge.attempt_no, model.name, hedge.worst_case_usd)
        reserved = False
        try:
            with suppress(EndpointClosedError):  # then the job has its first call only
                # As a retry: hedges use the retry budget, so that they don't flood a slow endpoint.
                async with self.client.admit(model, tokens, retry=True) as permit:
                    reserved = True  # until it is refused: a cancellation must free it
                    status = await self.commit.reserve(wanted, lambda: permit.starts_soon)
                    reserved = status is ReservationStatus.GRANTED
                    if reserved:
                        await permit.start()
                        await self.commit.allow_sending(job_no, hedge.attempt_no)
                        if not self.closing.is_set() and self._is_covered(pending, permit, hedge):
                            hedge.model = permit.model
                            hedge.answer = await self._send(pending, permit)
        finally:
            if hedge.model is None and reserved:
                self.commit.release(job_no, hedge.attempt_no)

    def _is_covered(self, pending: PendingJob, permit: Permit, hedge: Call) -> bool:
        """Return whether what was reserved is what is now known that the call may cost."""
        known = self.client.behaviour.apply(permit.model)
        if known is permit.model:
            return True
        return bound_cost_usd(pending.job.body, known) <= hedge.worst_case_usd

    def _timeout_s(self, pending: PendingJob, model: CandidateModel) -> float:
        sla, limits_s = pending.job.sla, [model.endpoint.timeout_s]
        if sla.max_latency_s is not None:
            limits_s.append(sla.max_latency_s)
        if sla.deadline is not None:
            limits_s.append((sla.deadline - self.now()).total_seconds())
        return max(0.001, min(limits_s))


def _note_completion(traced: "Span | None", completion: Completion) -> None:
    usage, failure = completion.usage, completion.failure
    note(
        traced,
        failure=None if failure is None else failure.code,
        http_status=completion.http_status,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        finish_reason=completion.finish_reason,
    )


async def _race(
    first: Coroutine[None, None, Answer], second: Coroutine[None, None, None], hedge: Call
) -> Answer | None:
    """Await a call and its hedge until one of them brings a completion, or both have failed.

    Args:
        first: The call that was sent.
        second: Waits, then sends the hedge if it may, and sets its model and answer.
        hedge: The second call.

    Returns:
        What the first call returned; None where the hedge won and the first was cancelled.
    """
    tasks = (asyncio.create_task(first), asyncio.create_task(second))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not _is_decided(tasks[0], hedge):
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:  # their results may be exceptions too: the errors that calls return
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
    return tasks[0].result() if not tasks[0].cancelled() else None


def _is_decided(first: asyncio.Task[Answer], hedge: Call) -> bool:
    """Return whether a longer wait can bring nothing better than what is there."""
    if isinstance(hedge.answer, Completion):
        return True
    # A first call that failed before its hedge was sent is retried the usual way.
    return first.done() and (isinstance(first.result(), Completion) or hedge.model is None)
