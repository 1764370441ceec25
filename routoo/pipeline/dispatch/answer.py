"""Answers one job: calls the chosen model, retries it, and falls back to other models.

A job is asked of one candidate model after the other, in attempts: each is admitted to an endpoint,
reserves its worst case, is sent, and is settled. `NextStep` says what follows each step.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import chain
from random import Random

from routoo.client.failures import backoff_s, is_bad_answer
from routoo.domain.absence import Absence
from routoo.domain.completion import KeptAnswer
from routoo.domain.job import PendingJob
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_cost_usd, estimate_call_tokens
from routoo.errors import (
    CutAnswerError,
    EndpointClosedError,
    EndpointDeniedError,
    EndpointError,
    LimitFieldRefusedError,
    RateLimitedError,
    TruncatedAnswerError,
)
from routoo.pipeline.dispatch.accounting import CallReserver, NextStep, settle_calls
from routoo.pipeline.dispatch.fallback import Candidate
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.pipeline.dispatch.hedge import Call, CallLatencies, HedgedCaller
from routoo.pipeline.dispatch.job_state import JobState
from routoo.pipeline.dispatch.judging import AnswerJudging
from routoo.pipeline.dispatch.review import Verdict, resume, review
from routoo.pipeline.dispatch.running_batch import RunningBatch
from routoo.pipeline.dispatch.waiting_jobs import MoneyQueue, WaitingJobs
from routoo.ports import ChatClient, Permit

_ABSENCE_POLL_S = 1.0
"""Time between two looks at a model that takes no calls, in seconds."""
_BUDGET_POLL_S = 0.05
"""Time between two attempts to reserve money that other calls may free, in seconds."""
_CUT = (CutAnswerError, TruncatedAnswerError)
"""Errors of answers that need more tokens than their limit left them."""
_STEPS = {
    Verdict.TAKEN: NextStep.ENDED,
    Verdict.ASK_AGAIN: None,
    Verdict.LEAVE: NextStep.NEXT_MODEL,
    Verdict.ESCALATE: NextStep.ESCALATED,
}


@dataclass(slots=True)
class Answerer:
    """Answers the jobs of one shard; all of them share it."""

    client: ChatClient
    commit: GroupCommit
    closing: asyncio.Event
    """Set when no new call may start."""
    max_attempts_per_model: int
    final_filters: frozenset[str] = frozenset()
    """Names of models after whose content filter no other model is asked."""
    latencies: CallLatencies = field(default_factory=CallLatencies)
    judging: AnswerJudging | None = None
    """Judges the answers of probes; without it they are taken as they come."""
    kept: Mapping[int, Sequence[KeptAnswer]] = field(default_factory=dict)
    """Answers that earlier dispatches kept, by job number."""
    busy: set[int] = field(default_factory=set)
    """Numbers of the jobs that an endpoint has admitted: money may be reserved for them."""
    limited_since_s: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    """Since when a model, by name, has only put a job off, by number, by the loop's clock."""
    rng: Random = field(default_factory=Random)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    batch: RunningBatch = field(default_factory=RunningBatch)
    waiting: WaitingJobs = field(init=False)
    _caller: HedgedCaller = field(init=False)
    _reserver: CallReserver = field(init=False)
    _money: MoneyQueue = field(default_factory=MoneyQueue)
    _states: dict[int, JobState] = field(default_factory=dict)
    """By job number: a revision of the plan may start the task of a job anew."""

    def __post_init__(self) -> None:
        self.waiting = WaitingJobs(self.closing, self.commit.record)
        self._reserver = CallReserver(
            self.client, self.commit, self._money, self._check_time, self.waiting.leave_for_money
        )
        self._caller = HedgedCaller(
            self.client, self.commit, self.closing, self.latencies, self.now
        )

    def forget_jobs(self) -> None:
        """Let go of all jobs once none is at work.

        The answerer refers to itself, so that what it holds would wait for the garbage collector,
        which comes rarely: a dispatcher grew by 2 KB a job.
        """
        self._states.clear()
        self.kept = {}

    async def answer(self, pending: PendingJob, candidates: Sequence[Candidate]) -> bool:
        """Ask the candidates in turn until one answers.

        Args:
            pending: The job.
            candidates: The chosen model first, then the fallbacks in order.

        Returns:
            True when the job has a result, which may still wait for its commit; False when it was
            left pending.

        Raises:
            StoreError: A flush failed, or another worker owns the shard.
        """
        state = self._state_of(pending)
        state.offered = state.candidates = candidates
        self.waiting.begin(state.job_no)
        try:
            step = await self._answer(state)
        finally:
            self.waiting.end(state.job_no)
            self._money.leave(state.job_no)
        if step is NextStep.NEXT_MODEL:  # there is none
            self.commit.record(state.failure())
        if step is NextStep.LEFT_PENDING:
            self.waiting.leave(state)
        return step is not NextStep.LEFT_PENDING

    async def _answer(self, state: JobState) -> NextStep:
        """Decide about the answers that the job has; ask until it has its result, or can't be."""
        if await resume(self.commit, self.judging, state) is Verdict.TAKEN:
            return NextStep.ENDED
        step = NextStep.ESCALATED
        while step is NextStep.ESCALATED:
            step = await self._ask_in_turn(state, state.candidates)
        return step

    def _state_of(self, pending: PendingJob) -> JobState:
        """Return the state of a job, which goes on if the job was given another model."""
        number = pending.job.job_no
        state = self._states.get(number)
        if state is None:
            state = self._states[number] = JobState.of(pending, self.kept.get(number, ()))
        else:
            state.reassign(pending)
        return state

    async def _ask_in_turn(self, state: JobState, candidates: Sequence[Candidate]) -> NextStep:
        """Ask the candidates in turn until the job has its result or something else follows."""
        # What was passed over as too dear or absent is asked again last: then the job waits for it.
        dear, passed = list[Candidate](), list[Candidate]()
        for number, candidate in enumerate(chain(candidates, dear, passed)):
            if candidate.model.context_window_tokens <= state.outgrown_tokens:
                continue
            state.ask(candidate)
            if number == len(candidates):
                self.commit.forget_fallback(state.job_no)
            is_last = number >= len(candidates) or len(candidates) == 1
            step = await self._ask(state, candidate.model, has_other=not is_last)
            if step in {NextStep.UNAVAILABLE, NextStep.DENIED}:
                passed.append(candidate)
            elif step is NextStep.KEPT_BACK and number < len(candidates):
                dear.append(candidate)
            elif step not in {NextStep.NEXT_MODEL, NextStep.KEPT_BACK}:
                return step
            state.note_departure()
            if step is NextStep.UNAVAILABLE and number == 0:
                await self._await_replan(state)
            if state.is_filtered and state.model in self.final_filters:
                break
        return NextStep.NEXT_MODEL

    async def _await_replan(self, state: JobState) -> None:
        """Give the selector time to choose another model with the money that is left.

        If it does, this task is cancelled, and the job goes on with its new model.
        """
        if await self.batch.request_replan(str(state.model), str(state.error_message)):
            await self._pause(self.batch.replan_wait_s, state)

    async def _ask(self, state: JobState, model: CandidateModel, *, has_other: bool) -> NextStep:
        """Ask one model until it answers or has failed too often.

        Args:
            state: The job's state.
            model: The model to ask.
            has_other: Whether another may be asked while this one takes no calls.
        """
        attempt, limited = 1, 0
        while attempt <= self.max_attempts_per_model:
            step = await self._check_absence(state, model, has_other=has_other)
            if step is not None:
                return step
            outcome = await self._attempt(state, model, retry=attempt + limited > 1)
            if outcome is NextStep.AWAIT_MONEY:
                outcome = await self._await_money(state, model)
            if isinstance(outcome, NextStep):
                return outcome
            if outcome is None or (isinstance(outcome, _CUT) and state.raise_limit()):
                continue
            if isinstance(outcome, RateLimitedError):  # it came too early, and uses up no attempt
                limited += 1
                delay_s = backoff_s(limited, retry_after_s=outcome.retry_after_s, rng=self.rng)
                if not await self._wait_out_limit(state, model, delay_s, has_other=has_other):
                    return self._leave(state, has_other=has_other)
                continue
            if attempt >= outcome.most_attempts or self._is_final(state, model, outcome):
                break
            attempt += await self._await_retry(state, model, attempt, outcome)
        return NextStep.NEXT_MODEL

    async def _await_retry(
        self, state: JobState, model: CandidateModel, attempt: int, error: EndpointError
    ) -> bool:
        """Wait before the next attempt; return whether the last one counts."""
        is_away, is_denied = self.client.absence(model), isinstance(error, EndpointDeniedError)
        if not is_away:
            await self._back_off(state, attempt, error)
        # A call that met an outage doesn't use up the job's attempts, the probe of a denial does.
        return is_denied == bool(is_away)

    def _is_final(self, state: JobState, model: CandidateModel, error: EndpointError) -> bool:
        """Return whether a failure is final for the model; an "outage" may be this job's doing."""
        if isinstance(error, EndpointDeniedError):
            return False  # the endpoint's fault and not the job's: it waits or falls back
        used_up = is_bad_answer(error) and state.attempts >= self.max_attempts_per_model
        return not error.retryable or (used_up and self.client.absence(model) is not None)

    async def _wait_out_limit(
        self, state: JobState, model: CandidateModel, delay_s: float, *, has_other: bool
    ) -> bool:
        """Wait after a rate limit; return whether the job's patience lasts for another call."""
        now_s = asyncio.get_running_loop().time()
        since_s = self.limited_since_s[model.name].setdefault(state.job_no, now_s)
        patience = self.batch.patience_of(state.given.job.sla)
        rest_s = patience.limits_s(now_s - since_s, self._left_s(state), has_other=has_other)
        if rest_s > 0 and self.client.absence(model) is None:
            await self._pause(min(delay_s, rest_s), state)
        return rest_s > 0

    async def _check_absence(
        self, state: JobState, model: CandidateModel, *, has_other: bool
    ) -> NextStep | None:
        """Wait for a model whose endpoints take no calls, as far as the job's patience goes.

        Returns:
            None where a call may be tried, though limits per minute may hold it up.
        """
        number = state.job_no
        while (absence := self.client.absence(model)) is not None:
            state.note_absence(model, absence)
            patience = self.batch.patience_of(state.given.job.sla)
            left_s = self._left_s(state)
            if not patience.waits(absence, left_s, has_other=has_other):
                self.waiting.go_on(number)
                return self._leave(state, has_other=has_other)
            if absence.is_long and state.kept.has_good:
                return NextStep.NEXT_MODEL
            step = await self._after_denial(absence, model, has_other=has_other)
            if step is not None:
                return step
            ends_s = patience.ends_s(absence, left_s, has_other=has_other)
            if self.waiting.wait_for(number, model, absence, ends_s):
                return NextStep.LEFT_PENDING
            self._money.leave(number)  # those behind it wait for the model too, or go elsewhere
            await self._pause(min(absence.rest_s or _ABSENCE_POLL_S, _ABSENCE_POLL_S), state)
            step = self._check_time(state)
            if step is not None:
                return step
        self.waiting.go_on(number)
        is_put_off = self.waiting.wait_in_line(number, model, self.client.queue_s(model))
        return NextStep.LEFT_PENDING if is_put_off else None

    async def _after_denial(
        self, absence: Absence, model: CandidateModel, *, has_other: bool
    ) -> NextStep | None:
        """Pause the batch if all models deny its requests; find out if that isn't known."""
        if await self.batch.pause_if_denied(absence.message, self.client):
            return NextStep.LEFT_PENDING
        asks_other = has_other and await self.batch.asks_other(model, absence)
        return NextStep.DENIED if asks_other else None

    def _leave(self, state: JobState, *, has_other: bool) -> NextStep:
        """Return what follows once a job's patience with a model has run out."""
        if has_other and not self.closing.is_set():
            return NextStep.UNAVAILABLE
        return self._check_time(state) or NextStep.NEXT_MODEL

    def _left_s(self, state: JobState) -> float | None:
        """Return the seconds until the job's deadline; None without one."""
        deadline = state.given.job.sla.deadline
        return None if deadline is None else (deadline - self.now()).total_seconds()

    async def _await_money(self, state: JobState, model: CandidateModel) -> NextStep | None:
        """Wait, without a slot, until calls in flight may have freed money; None to try again."""
        if await self._money.wait(state.job_no, model.name):
            await self._pause(_BUDGET_POLL_S, state)
        return self._check_time(state)

    async def _attempt(
        self, state: JobState, model: CandidateModel, *, retry: bool
    ) -> NextStep | EndpointError | None:
        """Make one call, and its hedge if it is slow.

        Returns:
            What follows, or the error of the call; None where a call may be made at once: the
            endpoint admitted none, or its bound was raised, as it is when a limit is refused.
        """
        body, known = state.pending.job.body, self.client.behaviour.apply(model)
        worst_case_usd = bound_cost_usd(body, known)
        tokens = estimate_call_tokens(body, known)
        try:
            async with (
                self.waiting.until_start(self._left_s(state)) as limit,
                self.client.admit(known, tokens, retry=retry) as permit,
            ):
                self.busy.add(state.job_no)
                self.waiting.go_on(state.job_no)
                step = await self._before_call(state, permit, worst_case_usd)
                if step is not None:
                    return None if step is NextStep.AGAIN else step
                self.waiting.start(limit)
                calls = await self._call(state, permit, worst_case_usd)
        except TimeoutError:
            return self._check_time(state)
        except EndpointClosedError as closed:
            state.note_error(model, closed.code, str(closed))
            return self._check_time(state)
        finally:
            self.busy.discard(state.job_no)
        error = settle_calls(self.commit, state, calls)
        if error is None:
            self.limited_since_s.pop(model.name, None)
            self.batch.answering.add(model.name)
        refused_limit = isinstance(error, LimitFieldRefusedError)
        if refused_limit and self.client.behaviour.apply(model) is not known:
            return None
        return await self._review(state) if error is None else error

    async def _review(self, state: JobState) -> NextStep | None:
        """Decide about the answer that came; None where its model is asked once more."""
        if state.kept.undecided is None:
            return NextStep.ENDED
        verdict = await review(self.commit, self.judging, state, state.kept.undecided)
        return _STEPS[verdict]

    async def _before_call(
        self, state: JobState, permit: Permit, worst_case_usd: Decimal
    ) -> NextStep | None:
        """Check the job's limits and reserve its worst case; None where the call may be sent."""
        step = self._check_time(state)
        if step is not None:
            return step
        model = permit.model
        if state.exceeds_cap(worst_case_usd):
            state.note_error(
                model,
                "max_cost_exceeded",
                f"{model.name} may cost ${worst_case_usd}, more than is left of max_cost_usd",
            )
            return NextStep.NEXT_MODEL
        return await self._reserver.reserve_and_start(state, permit, worst_case_usd)

    def _check_time(self, state: JobState) -> NextStep | None:
        """Return None while the shard is open and the job's deadline has not passed."""
        if self.closing.is_set():
            return NextStep.LEFT_PENDING
        deadline = state.pending.job.sla.deadline
        if deadline is not None and self.now() >= deadline:
            self.commit.record(state.expiry())
            return NextStep.ENDED
        return None

    async def _call(self, state: JobState, permit: Permit, worst_case_usd: Decimal) -> list[Call]:
        """Make the call, and a hedge if it is slow and the job's own limit covers both."""
        first = Call(state.attempts, worst_case_usd)
        hedge = await self._caller.call(
            state.pending,
            permit,
            first,
            hedge_allowed=not state.exceeds_cap(2 * worst_case_usd),
        )
        return [first] if hedge is None else [first, hedge]

    async def _back_off(self, state: JobState, attempt: int, error: EndpointError) -> None:
        """Wait before the next attempt, if there is one."""
        if attempt < self.max_attempts_per_model:
            delay_s = backoff_s(attempt, retry_after_s=error.retry_after_s, rng=self.rng)
            await self._pause(delay_s, state)

    async def _pause(self, delay_s: float, state: JobState) -> None:
        """Wait, at most until the shard closes or the job's deadline passes."""
        left_s = self._left_s(state)
        delay_s = delay_s if left_s is None else max(0.0, min(delay_s, left_s))
        with suppress(TimeoutError):
            await asyncio.wait_for(self.closing.wait(), delay_s)
