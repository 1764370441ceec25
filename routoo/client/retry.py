"""Decides whether and when to call an endpoint again after a failure."""

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from routoo.client.failures import error_of_completion
from routoo.domain.absence import Absence, AbsenceReason
from routoo.domain.completion import Completion
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import estimate_call_tokens
from routoo.errors import (
    EndpointClosedError,
    EndpointError,
    RateLimitedError,
    TruncatedAnswerError,
)
from routoo.ports import ChatClient

BASE_S = 0.5
"""Longest wait before the second attempt, in seconds; it doubles with each attempt after."""
CAP_S = 60.0
"""Longest wait, in seconds, where the endpoint asked for none."""
PATIENCE_S = 300.0
"""Longest pause asked for by an endpoint that is waited for, in seconds."""


def backoff_s(attempt: int, *, retry_after_s: float | None = None, rng: random.Random) -> float:
    """Return how long to wait after a failed attempt, in seconds.

    The wait grows exponentially with full jitter, so that callers that failed together don't return
    together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). A pause
    that the endpoint asked for is a lower bound: it is kept in full, even above `CAP_S`, and jitter
    is added to it.

    Args:
        attempt: Number of the attempt that failed, from 1.
        retry_after_s: The endpoint's `Retry-After`, if it sent one.
        rng: Source of the jitter.
    """
    longest = min(CAP_S, BASE_S * 2.0 ** min(attempt - 1, 32))
    jitter = rng.uniform(0.0, longest)
    if retry_after_s is None:
        return jitter
    return retry_after_s + min(jitter, max(BASE_S, retry_after_s / 4))


async def call_with_retries(
    client: ChatClient,
    model: CandidateModel,
    body: Mapping[str, Any],
    *,
    max_attempts: int,
    sleep: Callable[[float], Awaitable[object]],
    rng: random.Random,
) -> Completion:
    """Call an endpoint until it answers, fails for good, or has failed `max_attempts` times.

    Rate limits don't count as failures until they were waited for as long as `PATIENCE_S`. A
    completion that is no answer, such as one that a filter cut, is a failure.

    It is for callers that don't account for each attempt; a batch's dispatch does, and reserves
    money for each.

    Raises:
        EndpointError: The last attempt's failure.
    """
    attempt, limited, waited_s = 1, 0, 0.0
    while True:
        try:
            return await _call(client, model, body, retry=attempt + limited > 1)
        except EndpointClosedError:
            if _is_away(client.absence(model)):
                raise
            continue  # it asked for a pause, for which the next permit waits
        except EndpointError as error:
            is_limited = isinstance(error, RateLimitedError) and waited_s < PATIENCE_S
            if _is_final(error) or (attempt >= max_attempts and not is_limited):
                raise
            wait_s = backoff_s(attempt + limited, retry_after_s=error.retry_after_s, rng=rng)
        await sleep(wait_s)
        limited, attempt = limited + is_limited, attempt + (not is_limited)
        waited_s += wait_s * is_limited


def _is_away(absence: Absence | None) -> bool:
    """Return whether a model is not to be waited for."""
    if absence is None:
        return False
    is_paused = absence.reason is AbsenceReason.RATE_LIMITED
    return not is_paused or (absence.rest_s or 0.0) > PATIENCE_S


async def _call(
    client: ChatClient, model: CandidateModel, body: Mapping[str, Any], *, retry: bool
) -> Completion:
    """Make one attempt, and raise why its completion is no answer, if it is none."""
    async with client.admit(model, estimate_call_tokens(body, model), retry=retry) as permit:
        await permit.start()
        completion = await client.complete(permit.model, body)
        permit.used(completion.usage.total_tokens)
        if completion.failure is not None:
            raise completion.failure
    unusable = error_of_completion(model.name, completion)
    if unusable is not None:
        raise unusable
    return completion


def _is_final(error: EndpointError) -> bool:
    """Return whether another attempt is of no use, or too far away."""
    if not error.retryable or (error.retry_after_s or 0.0) > PATIENCE_S:
        return True
    return isinstance(error, TruncatedAnswerError)  # the limit of tokens stays the same
