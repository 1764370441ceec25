"""Maps aiohttp's exceptions, error responses and unusable completions to Routoo's errors.

It also decides whether and when an endpoint is called again after a failure.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import aiohttp

from routoo.client.formats.wire_format import ErrorDetails, ErrorKind
from routoo.client.ratelimit_headers import retry_after_s
from routoo.domain.absence import Absence, AbsenceReason
from routoo.domain.completion import Completion, FinishReason
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import estimate_call_tokens
from routoo.errors import (
    ContentFilterError,
    ContextLengthError,
    DenialReason,
    EmptyAnswerError,
    EndpointClosedError,
    EndpointDeniedError,
    EndpointError,
    EndpointTimeoutError,
    EndpointUnavailableError,
    InvalidResponseError,
    LimitFieldRefusedError,
    RateLimitedError,
    RequestRejectedError,
    TruncatedAnswerError,
)
from routoo.ports import ChatClient

LONGEST_WAIT_S = 7 * 86400.0
"""A longer wait that an endpoint asks for counts as this long, in seconds."""
SNIPPET_CHARACTERS = 300
"""Longest quote of a response in a message."""

_TRANSIENT_STATUSES = {408, 409, 425}
_TIMEOUT_STATUSES = {504, 524}
"""A gateway timed out; the model behind it may have answered all the same."""
_KEY_SHAPES = re.compile(r"\b(?:sk|pk|rk|gsk|key|api)-[\w-]{8,}|(?<=Bearer )\S+")

_ERRORS: tuple[tuple[type[BaseException], type[EndpointError], str], ...] = (
    # First match wins, so subclasses stand before their bases.
    (aiohttp.InvalidURL, EndpointDeniedError, "the base URL can't be called"),
    (aiohttp.NonHttpUrlClientError, EndpointDeniedError, "the base URL can't be called"),
    (aiohttp.ClientConnectorCertificateError, EndpointDeniedError, "the certificate is not valid"),
    (aiohttp.TooManyRedirects, EndpointDeniedError, "the endpoint redirects without end"),
    (aiohttp.ConnectionTimeoutError, EndpointUnavailableError, "connecting took too long"),
    (TimeoutError, EndpointTimeoutError, "no answer in time"),
    (aiohttp.ClientConnectorError, EndpointUnavailableError, "the connection failed"),
    (aiohttp.ClientHttpProxyError, EndpointUnavailableError, "the proxy let no connection through"),
    # From here on the request may have arrived, so the answer may be billed though it was lost.
    (aiohttp.ClientError, InvalidResponseError, "the answer was lost or cut off"),
    (OSError, InvalidResponseError, "the connection was lost"),
)

_TRUST = (
    "Call the host by the name in its certificate; where an authority of your own signed that, put "
    "the path of a file with the authorities to trust (PEM) into SSL_CERT_FILE"
)

_UNBLOCK = (
    "Put another address into the pool's base_url, or take the network out of the variable"
    " (behind a proxy: that of the proxy)"
)
BASE_S = 0.5
"""Longest wait before the second attempt, in seconds; it doubles with each attempt after."""
CAP_S = 60.0
"""Longest wait, in seconds, where the endpoint asked for none."""
PATIENCE_S = 300.0
"""Longest pause asked for by an endpoint that is waited for, in seconds."""


class BlockedAddressError(OSError):
    """The address of an endpoint is in a network that the settings block."""


CALL_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What a call through aiohttp may raise; `error_of_exception` maps each."""


def error_of_exception(error: BaseException, *, where: str) -> EndpointError:
    """Return the error that stands for an exception of a call.

    Args:
        error: One of `CALL_ERRORS`.
        where: The endpoint's URL, without credentials.
    """
    if isinstance(getattr(error, "os_error", None), BlockedAddressError):
        return EndpointDeniedError(
            str(error.__cause__ or error),
            reason=DenialReason.MISCONFIGURED,
            where=where,
            remedy=_UNBLOCK,
        )
    ours, what = meaning_of(type(error))
    reason = str(error).strip().rstrip(".")
    remedy = _TRUST if isinstance(error, aiohttp.ClientConnectorCertificateError) else None
    text = f"{what}: {reason}" if reason else what
    if issubclass(ours, EndpointDeniedError):
        return ours(text, reason=DenialReason.MISCONFIGURED, where=where, remedy=remedy)
    return ours(text, where=where, remedy=remedy)


def is_bad_answer(error: EndpointError) -> bool:
    """Return whether an endpoint answered and its answer can't be used; False if it was lost."""
    lost = (OSError, aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
    return isinstance(error, InvalidResponseError) and not isinstance(error.__cause__, lost)


def unreadable(error: Exception, where: str, http_status: int | None = None) -> EndpointError:
    """Return the error that stands for a response that broke what reads it.

    Args:
        error: What was raised.
        where: The endpoint's URL, without credentials.
        http_status: Of the response, where that could be read.
    """
    what = f"the response can't be read: {type(error).__name__}: {_clean(str(error), None)}"
    return InvalidResponseError(what, where=where, http_status=http_status)


def meaning_of(kind: type[BaseException]) -> tuple[type[EndpointError], str]:
    """Return the class of ours that stands for a class of exceptions, and what to say of it."""
    for foreign, ours, what in _ERRORS:
        if issubclass(kind, foreign):
            return ours, what
    raise TypeError(f"not an error of a call: {kind!r}")


def error_of_response(
    details: ErrorDetails,
    status: int,
    headers: Mapping[str, str],
    *,
    where: str,
    secret: str | None = None,
) -> EndpointError:
    """Return the error that stands for a response that is not a success.

    Args:
        details: What its body says, read by the endpoint's format.
        status: HTTP status, 300 or above.
        headers: The response's headers.
        where: The endpoint's URL, without credentials.
        secret: The API key, which the message must not quote.
    """
    wait_s = retry_after_s(headers, now=datetime.now(UTC)) or details.wait_s
    what = f"HTTP {status}: {_clean(details.message, secret)}"
    return _error(details.kind, what, status, where=where, wait_s=wait_s)


def error_in_success(
    details: ErrorDetails, http_status: int, *, where: str, secret: str | None = None
) -> EndpointError:
    """Return the error that stands for an error inside a response that is a success.

    Args:
        details: What it says; the status that it names counts as the response's.
        http_status: Status of the response.
        where: The endpoint's URL, without credentials.
        secret: The API key, which the message must not quote.
    """
    status = details.status or HTTPStatus.INTERNAL_SERVER_ERROR
    named = f"error {details.status}" if details.status else "an error"
    what = f"HTTP {http_status} with {named} in it: {_clean(details.message, secret)}"
    return _error(details.kind, what, status, where=where, wait_s=details.wait_s)


def error_of_completion(model: str, completion: Completion) -> EndpointError | None:
    """Return why a completion of the model of that name is no answer; None where it is one."""
    status = completion.http_status
    if completion.failure is not None:
        return completion.failure
    if completion.is_filtered:
        return ContentFilterError(
            f"the content filter of {model} cut the answer",
            remedy="Rephrase the prompt, or let another model answer"
            " (--on-content-filter fallback)",
            http_status=status,
        )
    if completion.finish_reason is FinishReason.TRUNCATED:
        return TruncatedAnswerError(
            f"{model} used up its limit of tokens before it answered",
            remedy="Raise max_tokens: it limits reasoning too",
            http_status=status,
        )
    if completion.finish_reason is FinishReason.EMPTY:
        return EmptyAnswerError(f"{model} answered with nothing", http_status=status)
    return None


def _error(
    said: ErrorKind | None, what: str, status: int, *, where: str, wait_s: float | None
) -> EndpointError:
    denial = _DENIAL_KINDS.get(said) if said else _DENIALS.get(status)
    if denial is not None:
        advice = _REMEDIES.get(status) or _REMEDIES_OF_DENIALS[denial]
        return EndpointDeniedError(
            what, reason=denial, where=where, remedy=advice, http_status=status
        )
    kind, remedy = _kind_of(status, said)
    wait_s = min(wait_s, LONGEST_WAIT_S) if wait_s is not None and kind.retryable else None
    return kind(what, where=where, remedy=remedy, http_status=status, retry_after_s=wait_s)


def _kind_of(status: int, said: ErrorKind | None) -> tuple[type[EndpointError], str | None]:
    if said in _BY_KIND:
        return _BY_KIND[said]
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return RateLimitedError, None
    if status in _TIMEOUT_STATUSES:
        return EndpointTimeoutError, None
    if said is ErrorKind.OVERLOADED:
        return EndpointUnavailableError, None
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRANSIENT_STATUSES:
        return EndpointUnavailableError, None
    return RequestRejectedError, _REMEDIES.get(status)


_BY_KIND: Mapping[ErrorKind | None, tuple[type[EndpointError], str | None]] = {
    ErrorKind.CONTEXT_LENGTH: (
        ContextLengthError,
        "Shorten the prompt or ask a model with a wider window",
    ),
    ErrorKind.CONTENT_FILTER: (
        ContentFilterError,
        "Rephrase the prompt, or let another model answer",
    ),
    ErrorKind.LIMIT_FIELD: (
        LimitFieldRefusedError,
        "Correct completion_limit_field of the endpoint in the pool",
    ),
    ErrorKind.REQUEST: (RequestRejectedError, None),
    ErrorKind.RATE_LIMIT: (RateLimitedError, None),
}
_DENIAL_KINDS = {
    ErrorKind.UNAUTHORIZED: DenialReason.UNAUTHORIZED,
    ErrorKind.NO_CREDIT: DenialReason.NO_CREDIT,
    ErrorKind.FORBIDDEN: DenialReason.FORBIDDEN,
    ErrorKind.MISCONFIGURED: DenialReason.MISCONFIGURED,
    ErrorKind.NO_API: DenialReason.NO_API,
}
_DENIALS = {
    401: DenialReason.UNAUTHORIZED,
    402: DenialReason.NO_CREDIT,
    403: DenialReason.FORBIDDEN,
    **dict.fromkeys((301, 302, 303, 307, 308, 407), DenialReason.MISCONFIGURED),
}
"""Statuses that say that every request would be refused."""
_REDIRECTED = "Put the address that the endpoint redirects to into the pool's base_url"
_REMEDIES = {
    **dict.fromkeys((301, 302, 303, 307, 308), _REDIRECTED),
    404: "Check the pool's base_url and the model's name at the endpoint",
    407: "Put the proxy's user and password into the URL in the variable that names the proxy",
}
_REMEDIES_OF_DENIALS = {
    DenialReason.UNAUTHORIZED: "Check the key in the variable that the pool's api_key_env names",
    DenialReason.NO_CREDIT: "Top up the account or raise its limit",
    DenialReason.FORBIDDEN: "Check that the key may use this model",
    DenialReason.MISCONFIGURED: _REMEDIES[404],
    DenialReason.NO_API: _REMEDIES[404],
}


def _clean(text: str, secret: str | None) -> str:
    if secret:
        text = text.replace(secret, "***")
    text = " ".join(_KEY_SHAPES.sub("***", text).split())
    if len(text) > SNIPPET_CHARACTERS:
        return text[:SNIPPET_CHARACTERS] + " [...]"
    return text.rstrip(".") or "no message"


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
