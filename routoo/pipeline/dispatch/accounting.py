"""Accounts for calls: their worst case is reserved before they are sent, their cost settled after.

What is settled is an attempt, with the job's result or a kept answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum, auto

from routoo.client.failures import error_of_completion
from routoo.domain.completion import (
    Attempt,
    Completion,
    FinishReason,
    KeptAnswer,
    Reservation,
    TokenProbabilities,
)
from routoo.domain.job import ResultStatus
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_cost_usd, prompt_text
from routoo.errors import CutAnswerError, EndpointError, HedgeLostError
from routoo.judge.token_probabilities import (
    token_probabilities_of,
    without_token_probabilities,
)
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.pipeline.dispatch.hedge import Call
from routoo.pipeline.dispatch.job_state import JobState
from routoo.pipeline.dispatch.pending_writes import ReservationStatus
from routoo.pipeline.dispatch.waiting_jobs import MoneyQueue
from routoo.ports import ChatClient, Permit


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
    KEPT_BACK = auto()
    """The money is kept for jobs' cheapest calls; all others are asked before this model."""


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
        if state.kept.has_good:
            self.commit.forget_fallback(state.job_no)
        reservation = Reservation(
            state.job_no, number, model.name, worst_case_usd, last_resort=_is_last_resort(state)
        )
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
        is_kept_back = status is ReservationStatus.KEPT_BACK
        cheapest, least_usd = state.note_unpaid(model, worst_case_usd)
        left, remedy = "the batch's budget has left", "raise budget_usd or lower max_tokens"
        if status is ReservationStatus.KEY_REFUSED:
            left, remedy = "the batch's key may spend today", "raise the key's limit, or retry"
        message = f"a call to {cheapest} may cost ${least_usd}, more than {left}; {remedy}"
        state.note_error(model, ResultStatus.BUDGET_EXHAUSTED, message)
        return NextStep.KEPT_BACK if is_kept_back else NextStep.NEXT_MODEL

    async def _lower_limit(self, state: JobState, model: CandidateModel) -> bool:
        """Lower a limit of tokens that was raised to what the money that is left covers."""
        last, free_usd = _is_last_resort(state), None
        if state.cut_tokens:
            free_usd = await self.commit.free_usd(last_resort=last)
        known = self.client.behaviour.apply(model)
        return free_usd is not None and state.lower_limit(known, free_usd)


def _is_last_resort(state: JobState) -> bool:
    """Return whether the cheapest model is asked, for want of an answer."""
    is_cheapest = state.asked is not None and state.asked.fallback_usd is not None
    return is_cheapest and not state.kept.has_good


def settle_calls(
    commit: GroupCommit, state: JobState, calls: Sequence[Call]
) -> EndpointError | None:
    """Settle a call, and its hedge if one was sent.

    Args:
        commit: Records attempts and the result.
        state: What happened to the job so far; is brought up to date.
        calls: Calls that have ended or were cancelled; those that were never sent are skipped.

    Returns:
        Why the job has no answer yet; None where its result is recorded, or an answer is kept that
        must be decided about (`KeptAnswers.undecided`).

    Raises:
        StoreError: A flush failed, or another worker owns the shard.
    """
    sent = [(call, call.model) for call in calls if call.model is not None]
    state.attempts = max(call.attempt_no for call, _ in sent)
    # Failures are settled first, since the cost of the job's result includes them.
    sent.sort(key=lambda pair: _is_usable(state, pair[0]))
    error: EndpointError | None = None
    for number, (call, model) in enumerate(sent, start=1):
        completion = call.answer
        if not isinstance(completion, Completion):
            error = _settle_failure(commit, state, call, model)
            continue
        error = error_of_completion(model.name, completion) or cut_error(state, completion)
        if error is not None:
            _settle_unusable(commit, state, call, model, completion, error)
        else:
            _settle_answer(commit, state, call, model, completion, is_last=number == len(sent))
    return error


def _settle_answer(
    commit: GroupCommit,
    state: JobState,
    call: Call,
    model: CandidateModel,
    completion: Completion,
    *,
    is_last: bool,
) -> None:
    """Settle an answer: with the job's result, or kept until it is decided about."""
    summary = token_probabilities_of(prompt_text(state.given.job.body), completion.body)
    if model.logprobs and not state.given.job.body.get("logprobs"):  # only we asked for them
        completion = replace(completion, body=without_token_probabilities(completion.body))
    attempt = succeeded_attempt(
        state.job_no, call.attempt_no, model, completion, probe=state.asks_probe, summary=summary
    )
    state.add_success(model, attempt.cost_usd)
    if is_last and (attempt.probe or state.rules.has_rules):
        kept = KeptAnswer(attempt, completion)
        state.kept.add(kept)
        commit.settle(attempt)
        commit.keep(kept)
    else:
        commit.settle(attempt, state.success(completion) if is_last else None)


def _is_usable(state: JobState, call: Call) -> bool:
    completion = call.answer
    if not isinstance(completion, Completion):
        return False
    return (error_of_completion("", completion) or cut_error(state, completion)) is None


def _settle_failure(
    commit: GroupCommit, state: JobState, call: Call, model: CandidateModel
) -> EndpointError:
    """Settle a call without a completion, at its worst case if it may have been billed."""
    error = call.answer
    if not isinstance(error, EndpointError):
        error = HedgeLostError(f"another call to {model.name} answered first")
    cost_usd = call.worst_case_usd if error.maybe_billed else Decimal(0)
    state.add_failure(model, cost_usd, error)
    attempt = failed_attempt(state.job_no, call.attempt_no, model, error, cost_usd)
    commit.settle(replace(attempt, probe=state.asks_probe))
    return error


def cut_error(state: JobState, completion: Completion) -> CutAnswerError | None:
    """Return the error of an answer that reached a limit that we set and may raise, else None."""
    if completion.finish_reason is not FinishReason.LENGTH or state.most_tokens is None:
        return None
    return CutAnswerError(
        f"the limit of {state.limit_tokens} tokens cut the answer",
        remedy="Set max_tokens, or --max-completion-tokens for all requests without it",
        http_status=completion.http_status,
    )


def _settle_unusable(
    commit: GroupCommit,
    state: JobState,
    call: Call,
    model: CandidateModel,
    completion: Completion,
    error: EndpointError,
) -> None:
    """Settle a completion that is no answer, such as one that a filter cut: it is billed."""
    attempt = unusable_attempt(state.job_no, call.attempt_no, model, completion, error)
    state.add_failure(model, attempt.cost_usd, error)
    commit.settle(replace(attempt, probe=state.asks_probe))


def succeeded_attempt(
    job_no: int,
    attempt_no: int,
    model: CandidateModel,
    completion: Completion,
    *,
    probe: bool = False,
    summary: TokenProbabilities | None = None,
) -> Attempt:
    """Return the record of a call that was answered."""
    return Attempt(
        job_no=job_no,
        attempt_no=attempt_no,
        model=model.name,
        status="succeeded",
        cost_usd=completion.usage.cost_usd(model),
        latency_s=completion.latency_s,
        usage=completion.usage,
        http_status=completion.http_status,
        probe=probe,
        token_probabilities=summary,
    )


def failed_attempt(
    job_no: int, attempt_no: int, model: CandidateModel, error: EndpointError, cost_usd: Decimal
) -> Attempt:
    """Return the record of a call that failed."""
    return Attempt(
        job_no=job_no,
        attempt_no=attempt_no,
        model=model.name,
        status="failed",
        cost_usd=cost_usd,
        http_status=error.http_status,
        error_code=error.code,
        error_message=str(error),
    )


def unusable_attempt(
    job_no: int,
    attempt_no: int,
    model: CandidateModel,
    completion: Completion,
    error: EndpointError,
) -> Attempt:
    """Return the record of a call whose completion is billed and is no answer."""
    cost_usd = completion.usage.cost_usd(model)
    attempt = failed_attempt(job_no, attempt_no, model, error, cost_usd)
    return replace(attempt, usage=completion.usage, latency_s=completion.latency_s)
