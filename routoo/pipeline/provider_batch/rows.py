"""Rows of a provider's batch: which jobs go out together, and what becomes of each answer."""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal

from routoo.client.formats.registry import batch_format_of
from routoo.client.provider_batches import channel_of
from routoo.domain.completion import Attempt, Completion, Reservation, Result, Usage
from routoo.domain.job import PendingJob, ResultStatus
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import bound_completion_tokens, bound_prompt_tokens
from routoo.domain.provider_batch import ProviderRow
from routoo.errors import ContentFilterError, EndpointError
from routoo.pipeline.dispatch.accounting import filtered

_BYTES_PER_MB = 1_000_000


def row_of(pending: PendingJob, model: CandidateModel) -> ProviderRow:
    """Return the row that a job would be in a batch of a model's channel."""
    body = pending.job.body
    prompt, completion = bound_prompt_tokens(body, model), bound_completion_tokens(body, model)
    return ProviderRow(
        job_no=pending.job.job_no,
        attempt_no=pending.attempts + 1,
        body=body,
        worst_case_usd=model.cost_usd(prompt, completion),
        spent_usd=pending.cost_usd,
    )


def reservation_of(row: ProviderRow, model: CandidateModel) -> Reservation:
    """Return the reservation of a row's worst case."""
    return Reservation(row.job_no, row.attempt_no, model.name, row.worst_case_usd)


def split(model: CandidateModel, rows: Iterable[ProviderRow]) -> Iterator[list[ProviderRow]]:
    """Yield rows that may go out in one file: of one kind, within the provider's limits.

    A row that alone exceeds the limit of a file is left out.
    """
    channel, batches = channel_of(model), batch_format_of(model)
    most_bytes = channel.max_file_mb * _BYTES_PER_MB
    parts: dict[str, list[ProviderRow]] = {}
    sizes: dict[str, int] = {}
    for row in rows:
        url = batches.row_url(channel, row.body)
        size = len(batches.encode_row(model, channel, row))
        if size > most_bytes:
            continue
        part = parts.setdefault(url, [])
        if part and (len(part) >= channel.max_requests or sizes[url] + size > most_bytes):
            yield part
            part = parts[url] = []
            sizes[url] = 0
        part.append(row)
        sizes[url] = sizes.get(url, 0) + size
    yield from (part for part in parts.values() if part)


def input_file(model: CandidateModel, rows: Sequence[ProviderRow]) -> bytes:
    """Return the input file of some rows.

    Raises:
        RequestRejectedError: A request holds something that JSON can't carry.
    """
    channel, batches = channel_of(model), batch_format_of(model)
    return b"".join(batches.encode_row(model, channel, row) for row in rows)


def settlement(
    model: CandidateModel,
    row: ProviderRow,
    outcome: Completion | EndpointError,
    *,
    filter_ends: bool = False,
) -> tuple[Attempt, Result | None]:
    """Return what a row cost, and its job's result where it was answered.

    A row that failed leaves its job to be called like any other, unless its owner wants no answer
    but through this channel, or `filter_ends` the job and a content filter refused it.
    """
    if isinstance(outcome, EndpointError) or outcome.is_filtered:
        attempt = _failed(model, row, outcome)
        pinned = row.body.get("model") == model.name
        ends = pinned or (filter_ends and attempt.error_code == ContentFilterError.code)
        return attempt, _failure(row, attempt) if ends else None
    usage = outcome.usage
    cost_usd = model.cost_usd(usage.prompt_tokens, usage.completion_tokens)
    attempt = Attempt(
        job_no=row.job_no,
        attempt_no=row.attempt_no,
        model=model.name,
        status="succeeded",
        cost_usd=cost_usd,
        latency_s=outcome.latency_s,
        usage=usage,
        http_status=outcome.http_status,
    )
    result = Result(
        job_no=row.job_no,
        status=ResultStatus.SUCCEEDED,
        cost_usd=row.spent_usd + cost_usd,
        attempts=row.attempt_no,
        model=model.name,
        completion=outcome,
    )
    return attempt, result


def _failed(
    model: CandidateModel, row: ProviderRow, outcome: Completion | EndpointError
) -> Attempt:
    error, usage, cost_usd = _account(model, row, outcome)
    return Attempt(
        job_no=row.job_no,
        attempt_no=row.attempt_no,
        model=model.name,
        status="failed",
        cost_usd=cost_usd,
        usage=usage,
        http_status=error.http_status,
        error_code=error.code,
        error_message=str(error),
    )


def _account(
    model: CandidateModel, row: ProviderRow, outcome: Completion | EndpointError
) -> tuple[EndpointError, Usage | None, Decimal]:
    """Return why a row brought no answer, and what it took and cost."""
    if isinstance(outcome, Completion):  # cut by a filter, it is billed like any other
        usage = outcome.usage
        cost_usd = model.cost_usd(usage.prompt_tokens, usage.completion_tokens)
        return filtered(model, outcome), usage, cost_usd
    return outcome, None, row.worst_case_usd if outcome.maybe_billed else Decimal(0)


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
