"""One job, from its chosen model to its one result: calls, retries, fallbacks."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, auto
from random import Random

from routoo.client.retry import backoff_s
from routoo.domain.completion import Attempt, Completion, Reservation, Result
from routoo.domain.job import PendingJob, ResultStatus
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_completion_tokens, bound_prompt_tokens
from routoo.errors import ContextLengthError, EndpointError
from routoo.pipeline.books import Books, Grant
from routoo.ports import ChatClient

_MONEY_POLL_S = 0.2


class _Step(Enum):
    """What follows an attempt."""

    ENDED = auto()
    """The job has its result."""
    DRAINED = auto()
    """No new call may start now; the job stays pending."""
    NEXT_MODEL = auto()


@dataclass(slots=True)
class _Tally:
    """What happened to a job so far."""

    attempts: int
    cost_usd: Decimal
    model: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    outgrown_tokens: int = 0
    """The widest context window that proved too small."""

    def blame(self, model: CandidateModel, code: str, message: str) -> None:
        self.model, self.error_code, self.error_message = model.name, code, message


@dataclass(frozen=True, slots=True)
class Answerer:
    """Answers jobs of one shard; shared by all of them."""

    client: ChatClient
    books: Books
    closing: asyncio.Event
    """Set when no new call may start."""
    max_attempts_per_model: int
    rng: Random = field(default_factory=Random)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def answer(self, pending: PendingJob, candidates: Sequence[CandidateModel]) -> bool:
        """Ask the candidates in turn until one answers.

        Args:
            pending: The job.
            candidates: The chosen model first, then the fallbacks in order.

        Returns:
            True when the job has its result, False when it was left pending.

        Raises:
            StoreError: The books can't be kept, or another worker owns the shard.
        """
        tally = _Tally(pending.attempts, pending.cost_usd)
        for model in candidates:
            if model.context_window_tokens <= tally.outgrown_tokens:
                continue
            step = await self._ask(pending, model, tally)
            if step is not _Step.NEXT_MODEL:
                return step is _Step.ENDED
        await self.books.record(_failure(pending, tally))
        return True

    async def _ask(self, pending: PendingJob, model: CandidateModel, tally: _Tally) -> _Step:
        worst_case_usd = _worst_case_usd(pending, model)
        for attempt in range(1, self.max_attempts_per_model + 1):
            async with self.client.slot(model):
                step = await self._before_call(pending, model, tally, worst_case_usd)
                if step is not None:
                    return step
                error = await self._call(pending, model, tally, worst_case_usd)
            if error is None:
                return _Step.ENDED
            if not error.retryable:
                break
            if attempt < self.max_attempts_per_model:
                await self._pause(
                    backoff_s(attempt, retry_after_s=error.retry_after_s, rng=self.rng)
                )
        return _Step.NEXT_MODEL

    async def _before_call(
        self, pending: PendingJob, model: CandidateModel, tally: _Tally, worst_case_usd: Decimal
    ) -> _Step | None:
        """Return None when the call may be sent, its worst case reserved."""
        if self.closing.is_set():
            return _Step.DRAINED
        sla = pending.job.sla
        if sla.deadline is not None and self.now() >= sla.deadline:
            await self.books.record(_expiry(pending, tally))
            return _Step.ENDED
        if sla.max_cost_usd is not None and tally.cost_usd + worst_case_usd > sla.max_cost_usd:
            tally.blame(
                model,
                "max_cost_exceeded",
                f"{model.name} may cost ${worst_case_usd}, more than is left of max_cost_usd",
            )
            return _Step.NEXT_MODEL
        return await self._reserve(pending, model, tally, worst_case_usd)

    async def _reserve(
        self, pending: PendingJob, model: CandidateModel, tally: _Tally, worst_case_usd: Decimal
    ) -> _Step | None:
        reservation = Reservation(
            pending.job.job_no, tally.attempts + 1, model.name, worst_case_usd
        )
        while (grant := await self.books.reserve(reservation)) is Grant.WAIT:
            await self._pause(_MONEY_POLL_S)
            if self.closing.is_set():
                return _Step.DRAINED
        if grant is Grant.GRANTED:
            tally.attempts += 1
            return None
        tally.blame(
            model,
            ResultStatus.BUDGET_EXHAUSTED,
            f"a call to {model.name} may cost ${worst_case_usd}, more than the batch's budget "
            "has left; raise budget_usd or lower max_tokens",
        )
        return _Step.NEXT_MODEL

    async def _call(
        self, pending: PendingJob, model: CandidateModel, tally: _Tally, worst_case_usd: Decimal
    ) -> EndpointError | None:
        timeout_s = self._timeout_s(pending, model)
        try:
            completion = await self.client.complete(model, pending.job.body, timeout_s=timeout_s)
        except EndpointError as error:
            cost_usd = worst_case_usd if error.maybe_billed else Decimal(0)
            tally.cost_usd += cost_usd
            tally.blame(model, error.code, str(error))
            if isinstance(error, ContextLengthError):
                tally.outgrown_tokens = max(tally.outgrown_tokens, model.context_window_tokens)
            await self.books.settle(_failed(pending, tally, cost_usd, error))
            return error
        usage = completion.usage
        cost_usd = model.cost_usd(usage.prompt_tokens, usage.completion_tokens)
        tally.cost_usd += cost_usd
        tally.model = model.name
        attempt = _succeeded(pending, tally, cost_usd, completion)
        await self.books.settle(attempt, _success(pending, tally, completion))
        return None

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
    return model.cost_usd(bound_prompt_tokens(body), bound_completion_tokens(body, model))


def _succeeded(
    pending: PendingJob, tally: _Tally, cost_usd: Decimal, completion: Completion
) -> Attempt:
    return Attempt(
        job_no=pending.job.job_no,
        attempt_no=tally.attempts,
        model=str(tally.model),
        status="succeeded",
        cost_usd=cost_usd,
        latency_s=completion.latency_s,
        usage=completion.usage,
        http_status=completion.http_status,
    )


def _failed(pending: PendingJob, tally: _Tally, cost_usd: Decimal, error: EndpointError) -> Attempt:
    return Attempt(
        job_no=pending.job.job_no,
        attempt_no=tally.attempts,
        model=str(tally.model),
        status="failed",
        cost_usd=cost_usd,
        http_status=error.http_status,
        error_code=error.code,
        error_message=str(error),
    )


def _success(pending: PendingJob, tally: _Tally, completion: Completion) -> Result:
    return Result(
        job_no=pending.job.job_no,
        status=ResultStatus.SUCCEEDED,
        cost_usd=tally.cost_usd,
        attempts=tally.attempts,
        model=tally.model,
        completion=completion,
    )


def _failure(pending: PendingJob, tally: _Tally) -> Result:
    exhausted = tally.error_code == ResultStatus.BUDGET_EXHAUSTED
    return Result(
        job_no=pending.job.job_no,
        status=ResultStatus.BUDGET_EXHAUSTED if exhausted else ResultStatus.FAILED,
        cost_usd=tally.cost_usd,
        attempts=tally.attempts,
        model=tally.model,
        error_code=tally.error_code or "no_eligible_model",
        error_message=tally.error_message or "no candidate model fits this job's limits",
    )


def _expiry(pending: PendingJob, tally: _Tally) -> Result:
    return Result(
        job_no=pending.job.job_no,
        status=ResultStatus.EXPIRED,
        cost_usd=tally.cost_usd,
        attempts=tally.attempts,
        error_code="expired",
        error_message=f"the deadline {pending.job.sla.deadline} passed before an answer came",
    )
