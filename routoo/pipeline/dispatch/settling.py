"""Accounts for the calls of a job that were made at the same time, and tells its result."""

from collections.abc import Sequence
from decimal import Decimal

from routoo.domain.completion import Completion
from routoo.domain.job import PendingJob
from routoo.domain.pool import CandidateModel
from routoo.errors import EndpointError, HedgeLostError
from routoo.pipeline.dispatch.accounting import Tally, failed, filtered, succeeded, success
from routoo.pipeline.dispatch.group_commit import Books
from routoo.pipeline.dispatch.hedge import Call


def settle(
    books: Books, pending: PendingJob, tally: Tally, calls: Sequence[Call | None]
) -> EndpointError | None:
    """Account for a call and its hedge, if there was one that was sent.

    Args:
        books: Where it is written.
        pending: The job.
        tally: What happened to it before; is brought up to date.
        calls: What was called, and what came back.

    Returns:
        Why the job has no answer yet; None where its result is recorded.

    Raises:
        StoreError: The books can't be kept, or another worker owns the shard.
    """
    sent = [(call, call.model) for call in calls if call is not None and call.model is not None]
    tally.attempts = max(call.attempt_no for call, _ in sent)
    # Who brought no completion comes first: the job's cost counts it too.
    sent.sort(key=lambda pair: isinstance(pair[0].answer, Completion))
    error: EndpointError | None = None
    for number, (call, model) in enumerate(sent, start=1):
        tally.told = call.attempt_no
        if isinstance(call.answer, Completion):
            last = number == len(sent)
            error = _settle_answer(books, pending, tally, (model, call.answer), wins=last)
        else:
            error = _settle_failure(books, pending, tally, call, model)
    tally.told = None
    return error


def _settle_failure(
    books: Books, pending: PendingJob, tally: Tally, call: Call, model: CandidateModel
) -> EndpointError:
    """Account for a call without a completion: in full where it may have been billed."""
    error = call.answer
    if not isinstance(error, EndpointError):
        error = HedgeLostError(f"another call to {model.name} answered first")
    cost_usd = call.worst_case_usd if error.maybe_billed else Decimal(0)
    tally.spend(model, cost_usd, error)
    books.settle(failed(pending, tally, cost_usd, error))
    return error


def _settle_answer(
    books: Books,
    pending: PendingJob,
    tally: Tally,
    answer: tuple[CandidateModel, Completion],
    *,
    wins: bool,
) -> EndpointError | None:
    """Account for what came back; an answer that a content filter cut is paid for and none."""
    model, completion = answer
    usage = completion.usage
    cost_usd = model.cost_usd(usage.prompt_tokens, usage.completion_tokens)
    if completion.is_filtered:
        error = filtered(model, completion)
        tally.spend(model, cost_usd, error)
        books.settle(failed(pending, tally, cost_usd, error, completion))
        return error
    tally.spend(model, cost_usd)
    attempt = succeeded(pending, tally, cost_usd, completion)
    books.settle(attempt, success(pending, tally, completion) if wins else None)
    return None
