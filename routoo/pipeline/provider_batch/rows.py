"""Chooses which jobs go into one input file of a provider batch, and settles their answers."""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from routoo.client.failures import error_of_completion
from routoo.client.formats.wire_format import BatchFormat
from routoo.client.provider_batches import batch_format_of, channel_of
from routoo.domain.answer_checks import find_fault_aside
from routoo.domain.completion import Attempt, Completion, Reservation, Result
from routoo.domain.job import PendingJob, ResultStatus
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_cost_usd
from routoo.domain.provider_batch import ProviderRow
from routoo.domain.validators import validators_of
from routoo.errors import (
    ContentFilterError,
    EndpointError,
    InvalidAnswerError,
    RequestRejectedError,
)
from routoo.pipeline.dispatch.accounting import failed_attempt, succeeded_attempt, unusable_attempt

_BYTES_PER_MB = 1_000_000


def row_of(pending: PendingJob, model: CandidateModel) -> ProviderRow:
    """Return the row of a job for a model's batch channel."""
    body = pending.job.body
    return ProviderRow(
        job_no=pending.job.job_no,
        attempt_no=pending.attempts + 1,
        body=body,
        worst_case_usd=bound_cost_usd(body, model),
        spent_usd=pending.cost_usd,
    )


def reservation_of(row: ProviderRow, model: CandidateModel) -> Reservation:
    """Return the reservation of a row's worst case."""
    # What is kept for the cheapest calls stays with jobs at a provider for hours: it may use that.
    return Reservation(row.job_no, row.attempt_no, model.name, row.worst_case_usd, last_resort=True)


def split(model: CandidateModel, rows: Iterable[ProviderRow]) -> Iterator[list[ProviderRow]]:
    """Group rows into input files: one request URL a file, within the provider's limits.

    A row that exceeds the limit of a file by itself, or can't be sent, is left out.
    """
    channel, batches = channel_of(model), batch_format_of(model)
    most_bytes = channel.max_file_mb * _BYTES_PER_MB
    parts: dict[str, list[ProviderRow]] = {}
    sizes: dict[str, int] = {}
    for row in rows:
        url = batches.row_url(channel, row.body)
        size = _size_bytes(batches, model, row)
        if size is None or size > most_bytes:
            continue
        part = parts.setdefault(url, [])
        if part and (len(part) >= channel.max_requests or sizes[url] + size > most_bytes):
            yield part
            part = parts[url] = []
            sizes[url] = 0
        part.append(row)
        sizes[url] = sizes.get(url, 0) + size
    yield from (part for part in parts.values() if part)


def _size_bytes(batches: BatchFormat, model: CandidateModel, row: ProviderRow) -> int | None:
    """Return how long a row is in an input file, None where it can't be sent."""
    try:
        return len(batches.encode_row(model, channel_of(model), row))
    except RequestRejectedError:
        return None


def input_file(model: CandidateModel, rows: Sequence[ProviderRow]) -> bytes:
    """Return the input file of some rows.

    Raises:
        RequestRejectedError: A request holds something that JSON can't carry.
    """
    channel, batches = channel_of(model), batch_format_of(model)
    return b"".join(batches.encode_row(model, channel, row) for row in rows)


async def settlement(
    model: CandidateModel,
    row: ProviderRow,
    outcome: Completion | EndpointError,
    *,
    filter_ends: bool = False,
) -> tuple[Attempt, Result | None]:
    """Return the attempt that a row was, and its job's result if it has one.

    The job of a row that failed is called like any other job, unless its request names this model,
    or `filter_ends` the job and a content filter refused it.
    """
    if isinstance(outcome, EndpointError):
        cost_usd = row.worst_case_usd if outcome.maybe_billed else Decimal(0)
        failed = failed_attempt(row.job_no, row.attempt_no, model, outcome, cost_usd)
        return failed, _failure_if_final(model, row, failed, filter_ends=filter_ends)
    error = error_of_completion(model.name, outcome) or await _broken_rule(model, row, outcome)
    if error is not None:
        failed = unusable_attempt(row.job_no, row.attempt_no, model, outcome, error)
        return failed, _failure_if_final(model, row, failed, filter_ends=filter_ends)
    attempt = succeeded_attempt(row.job_no, row.attempt_no, model, outcome)
    result = Result(
        job_no=row.job_no,
        status=ResultStatus.SUCCEEDED,
        cost_usd=row.spent_usd + attempt.cost_usd,
        attempts=row.attempt_no,
        model=model.name,
        completion=outcome,
    )
    return attempt, result


async def _broken_rule(
    model: CandidateModel, row: ProviderRow, answer: Completion
) -> InvalidAnswerError | None:
    """Return the error of an answer that breaks a rule of its job; None where it keeps them."""
    rules = validators_of(row.body, row.validators)
    fault = await find_fault_aside(rules, answer.answer, answer.finish_reason)
    if fault is None:
        return None
    return InvalidAnswerError(
        f"the answer of {model.name} breaks a rule: {fault.rule}: {fault.message}",
        http_status=answer.http_status,
    )


def _failure_if_final(
    model: CandidateModel, row: ProviderRow, attempt: Attempt, *, filter_ends: bool
) -> Result | None:
    """Return the result of a job whose row failed, None where the job is called instead."""
    names_model = row.body.get("model") == model.name
    ends = names_model or (filter_ends and attempt.error_code == ContentFilterError.code)
    return _failure(row, attempt) if ends else None


def _failure(row: ProviderRow, attempt: Attempt) -> Result:
    return Result(
        job_no=row.job_no,
        status=ResultStatus.FAILED,
        cost_usd=row.spent_usd + attempt.cost_usd,
        attempts=row.attempt_no,
        model=attempt.model,
        error_code=attempt.error_code,
        error_message=attempt.error_message,
    )
