"""Accounts for the calls of a job: what they cost, and the attempts and results to record."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Self

from routoo.client.failures import error_of_completion
from routoo.domain.completion import Attempt, Completion, DeviationReason, Result
from routoo.domain.job import PendingJob, ResultStatus
from routoo.domain.pool import BATCH_SUFFIX, CandidateModel
from routoo.errors import (
    ContentFilterError,
    ContextLengthError,
    EndpointError,
    HedgeLostError,
    TruncatedAnswerError,
)
from routoo.pipeline.dispatch.fallback import Candidate
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.pipeline.dispatch.hedge import Call

_REASONS = {
    "endpoint_closed": DeviationReason.UNAVAILABLE,
    "endpoint_unavailable": DeviationReason.UNAVAILABLE,
    "endpoint_timeout": DeviationReason.UNAVAILABLE,
    "rate_limited": DeviationReason.RATE_LIMITED,
    "endpoint_denied": DeviationReason.DENIED,
    "max_cost_exceeded": DeviationReason.COST_CAP,
    str(ResultStatus.BUDGET_EXHAUSTED): DeviationReason.BUDGET,
    ContentFilterError.code: DeviationReason.CONTENT_FILTER,
    ContextLengthError.code: DeviationReason.CONTEXT_LENGTH,
    TruncatedAnswerError.code: DeviationReason.TRUNCATED,
}
"""Why a model was left, by the error with which it was."""


@dataclass(slots=True)
class JobAccount:
    """What happened to a job so far: its calls, their cost, and the last error."""

    pending: PendingJob
    attempts: int
    """Number of calls that were sent."""
    cost_usd: Decimal
    """Of all calls that ended, in USD."""
    model: str | None = None
    """Name of the model that was asked last."""
    error_code: str | None = None
    error_message: str | None = None
    asked: Candidate | None = None
    """The candidate that is asked, or was asked last."""
    reason: DeviationReason | None = None
    """Why the model that was chosen first was left; None while it was not."""
    outgrown_tokens: int = 0
    """The largest context window that proved too small, in tokens."""

    @classmethod
    def of(cls, pending: PendingJob) -> Self:
        """Return the account of a job; it goes on where an earlier dispatch of the job ended."""
        account = cls(pending, pending.attempts, pending.cost_usd)
        if pending.model.endswith(BATCH_SUFFIX):  # its channel takes no single calls
            account.reason = DeviationReason.BATCH_CHANNEL
        return account

    @property
    def job_no(self) -> int:
        """Number of the job in its batch."""
        return self.pending.job.job_no

    @property
    def is_filtered(self) -> bool:
        """Whether the last error is the refusal of a content filter."""
        return self.error_code == ContentFilterError.code

    def note_error(self, model: CandidateModel, code: str, message: str) -> None:
        """Keep why a model gave no answer; the last such error becomes the job's own."""
        self.model, self.error_code, self.error_message = model.name, code, message

    def note_departure(self) -> None:
        """Keep why the model that is asked is left; the first such reason stands."""
        if self.reason is None:
            self.reason = _REASONS.get(self.error_code or "", DeviationReason.FAILED)

    def add_failure(self, model: CandidateModel, cost_usd: Decimal, error: EndpointError) -> None:
        """Count a call that ended without an answer that can be used."""
        self.cost_usd += cost_usd
        self.note_error(model, error.code, str(error))
        if isinstance(error, ContextLengthError):
            self.outgrown_tokens = max(self.outgrown_tokens, model.context_window_tokens)

    def add_success(self, model: CandidateModel, cost_usd: Decimal) -> None:
        """Count a call that was answered."""
        self.cost_usd += cost_usd
        self.model = model.name

    def success(self, completion: Completion) -> Result:
        """Return the result of the job if the last model's answer is taken."""
        deviates = self.model != self.pending.planned
        return Result(
            job_no=self.job_no,
            status=ResultStatus.SUCCEEDED,
            cost_usd=self.cost_usd,
            attempts=self.attempts,
            model=self.model,
            completion=completion,
            reason=(self.reason or DeviationReason.REPLAN) if deviates else None,
            expected_quality=self.asked.expected_quality if deviates and self.asked else None,
            expected_cost_usd=self.asked.expected_cost_usd if deviates and self.asked else None,
        )

    def failure(self) -> Result:
        """Return the result of the job if no model answers."""
        exhausted = self.error_code == ResultStatus.BUDGET_EXHAUSTED
        return Result(
            job_no=self.job_no,
            status=ResultStatus.BUDGET_EXHAUSTED if exhausted else ResultStatus.FAILED,
            cost_usd=self.cost_usd,
            attempts=self.attempts,
            model=self.model,
            error_code=self.error_code or "no_eligible_model",
            error_message=self.error_message or "no candidate model fits this job's limits",
        )

    def expiry(self) -> Result:
        """Return the result of the job if its deadline passes before an answer."""
        return Result(
            job_no=self.job_no,
            status=ResultStatus.EXPIRED,
            cost_usd=self.cost_usd,
            attempts=self.attempts,
            error_code="expired",
            error_message=(
                f"the deadline {self.pending.job.sla.deadline} passed before an answer came"
            ),
        )


def settle_calls(
    commit: GroupCommit, account: JobAccount, calls: Sequence[Call]
) -> EndpointError | None:
    """Settle a call, and its hedge if one was sent.

    Args:
        commit: Records attempts and the result.
        account: The job's account; is brought up to date.
        calls: Calls that have ended or were cancelled; those that were never sent are skipped.

    Returns:
        Why the job has no answer yet; None where its result is recorded.

    Raises:
        StoreError: A flush failed, or another worker owns the shard.
    """
    sent = [(call, call.model) for call in calls if call.model is not None]
    account.attempts = max(call.attempt_no for call, _ in sent)
    # Failures are settled first, since the cost of the job's result includes them.
    sent.sort(key=lambda pair: _is_usable(pair[0]))
    error: EndpointError | None = None
    for number, (call, model) in enumerate(sent, start=1):
        completion = call.answer
        if not isinstance(completion, Completion):
            error = _settle_failure(commit, account, call, model)
            continue
        error = error_of_completion(model.name, completion)
        if error is not None:
            _settle_unusable(commit, account, call, model, completion, error)
        else:
            attempt = succeeded_attempt(account.job_no, call.attempt_no, model, completion)
            account.add_success(model, attempt.cost_usd)
            is_last = number == len(sent)
            commit.settle(attempt, account.success(completion) if is_last else None)
    return error


def _is_usable(call: Call) -> bool:
    completion = call.answer
    return isinstance(completion, Completion) and error_of_completion("", completion) is None


def _settle_failure(
    commit: GroupCommit, account: JobAccount, call: Call, model: CandidateModel
) -> EndpointError:
    """Settle a call without a completion, at its worst case if it may have been billed."""
    error = call.answer
    if not isinstance(error, EndpointError):
        error = HedgeLostError(f"another call to {model.name} answered first")
    cost_usd = call.worst_case_usd if error.maybe_billed else Decimal(0)
    account.add_failure(model, cost_usd, error)
    commit.settle(failed_attempt(account.job_no, call.attempt_no, model, error, cost_usd))
    return error


def _settle_unusable(
    commit: GroupCommit,
    account: JobAccount,
    call: Call,
    model: CandidateModel,
    completion: Completion,
    error: EndpointError,
) -> None:
    """Settle a completion that is no answer, such as one that a filter cut: it is billed."""
    attempt = unusable_attempt(account.job_no, call.attempt_no, model, completion, error)
    account.add_failure(model, attempt.cost_usd, error)
    commit.settle(attempt)


def succeeded_attempt(
    job_no: int, attempt_no: int, model: CandidateModel, completion: Completion
) -> Attempt:
    """Return the record of a call that was answered."""
    return Attempt(
        job_no=job_no,
        attempt_no=attempt_no,
        model=model.name,
        status="succeeded",
        cost_usd=completion_cost_usd(model, completion),
        latency_s=completion.latency_s,
        usage=completion.usage,
        http_status=completion.http_status,
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
    cost_usd = completion_cost_usd(model, completion)
    attempt = failed_attempt(job_no, attempt_no, model, error, cost_usd)
    return replace(attempt, usage=completion.usage, latency_s=completion.latency_s)


def completion_cost_usd(model: CandidateModel, completion: Completion) -> Decimal:
    """Return what a completion cost by the usage that came with it, in USD."""
    usage = completion.usage
    return model.cost_usd(usage.prompt_tokens, usage.completion_tokens, usage.cached_prompt_tokens)
