"""Settles calls that have ended: attempts with their cost, and the result or a kept answer."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from routoo.client.failures import error_of_completion
from routoo.domain.completion import Attempt, Completion, FinishReason, KeptAnswer
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import prompt_text
from routoo.errors import CutAnswerError, EndpointError, HedgeLostError
from routoo.judge.token_probabilities import (
    token_probabilities_of,
    without_token_probabilities,
)
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.pipeline.dispatch.hedge import Call
from routoo.pipeline.dispatch.job_state import JobState


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
    attempt = succeeded_attempt(state.job_no, call.attempt_no, model, completion)
    attempt = replace(attempt, probe=state.asks_probe, token_probabilities=summary)
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
