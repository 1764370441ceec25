"""What happened to a job so far, and the attempts and results that tell of it."""

from dataclasses import dataclass
from decimal import Decimal

from routoo.domain.completion import Attempt, Completion, Result
from routoo.domain.job import PendingJob, ResultStatus
from routoo.domain.pool import CandidateModel
from routoo.errors import ContentFilterError, ContextLengthError, EndpointError


@dataclass(slots=True)
class Tally:
    """What happened to a job so far."""

    attempts: int
    cost_usd: Decimal
    model: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    outgrown_tokens: int = 0
    """The widest context window that proved too small."""
    told: int | None = None
    """Number of the call that is being accounted for, where it is not the last one."""

    @property
    def attempt_no(self) -> int:
        """Number of the call that is being accounted for."""
        return self.attempts if self.told is None else self.told

    @property
    def is_filtered(self) -> bool:
        """Whether the model that was blamed last has a content filter that refused."""
        return self.error_code == ContentFilterError.code

    def blame(self, model: CandidateModel, code: str, message: str) -> None:
        """Note why a model gave no answer; the last one told is the job's error."""
        self.model, self.error_code, self.error_message = model.name, code, message

    def spend(
        self, model: CandidateModel, cost_usd: Decimal, error: EndpointError | None = None
    ) -> None:
        """Count a call that ended, and blame the model if it failed."""
        self.cost_usd += cost_usd
        self.model = model.name
        if error is None:
            return
        self.blame(model, error.code, str(error))
        if isinstance(error, ContextLengthError):
            self.outgrown_tokens = max(self.outgrown_tokens, model.context_window_tokens)


def succeeded(
    pending: PendingJob, tally: Tally, cost_usd: Decimal, completion: Completion
) -> Attempt:
    """Return the attempt that answered."""
    return Attempt(
        job_no=pending.job.job_no,
        attempt_no=tally.attempt_no,
        model=str(tally.model),
        status="succeeded",
        cost_usd=cost_usd,
        latency_s=completion.latency_s,
        usage=completion.usage,
        http_status=completion.http_status,
    )


def failed(
    pending: PendingJob,
    tally: Tally,
    cost_usd: Decimal,
    error: EndpointError,
    completion: Completion | None = None,
) -> Attempt:
    """Return an attempt that failed; usage and latency are known where an answer came."""
    return Attempt(
        job_no=pending.job.job_no,
        attempt_no=tally.attempt_no,
        model=str(tally.model),
        status="failed",
        cost_usd=cost_usd,
        latency_s=completion.latency_s if completion else None,
        usage=completion.usage if completion else None,
        http_status=error.http_status,
        error_code=error.code,
        error_message=str(error),
    )


def success(pending: PendingJob, tally: Tally, completion: Completion) -> Result:
    """Return the result of a job that was answered."""
    return Result(
        job_no=pending.job.job_no,
        status=ResultStatus.SUCCEEDED,
        cost_usd=tally.cost_usd,
        attempts=tally.attempts,
        model=tally.model,
        completion=completion,
    )


def failure(pending: PendingJob, tally: Tally) -> Result:
    """Return the result of a job that no model answered."""
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


def expiry(pending: PendingJob, tally: Tally) -> Result:
    """Return the result of a job whose deadline passed."""
    return Result(
        job_no=pending.job.job_no,
        status=ResultStatus.EXPIRED,
        cost_usd=tally.cost_usd,
        attempts=tally.attempts,
        error_code="expired",
        error_message=f"the deadline {pending.job.sla.deadline} passed before an answer came",
    )


def filtered(model: CandidateModel, completion: Completion) -> ContentFilterError:
    """Return the error that stands for an answer that a content filter cut."""
    return ContentFilterError(
        f"the content filter of {model.name} cut the answer",
        remedy="Rephrase the prompt, or let another model answer (--on-content-filter fallback)",
        http_status=completion.http_status,
    )
