"""The one boundary where aiohttp's exceptions and HTTP statuses become Routoo's errors."""

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import aiohttp
import orjson

from routoo.client.ratelimit_headers import retry_after_s
from routoo.errors import (
    ContentFilterError,
    ContextLengthError,
    EndpointError,
    EndpointTimeoutError,
    EndpointUnavailableError,
    InvalidResponseError,
    RateLimitedError,
    RequestRejectedError,
)

SNIPPET_CHARACTERS = 300
"""Most of a response's text that a message quotes."""

_CONTEXT_CODES = {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
_CONTEXT_STATUSES = {400, 413, 422, 500}
_CONTEXT_MESSAGE = re.compile(
    r"maximum context length|context (?:length|window|size)\b.{0,40}\bexceed"
    r"|exceeds?\b.{0,60}\bcontext (?:length|window|size)|(?:prompt|input) is too long"
    r"|longer than the (?:model'?s )?(?:maximum )?context"
    r"|reduce the length of the (?:messages|prompt|input)",
    re.IGNORECASE | re.DOTALL,
)
_TRANSIENT_STATUSES = {408, 409, 425}
_TIMEOUT_STATUSES = {504, 524}
"""A gateway lost patience: the model behind it may have answered all the same."""
_FILTER_CODES = {
    "content_filter",
    "content_policy_violation",
    "ResponsibleAIPolicyViolation",
    "moderation_blocked",
}
_NO_CREDIT_CODES = {"insufficient_quota", "billing_hard_limit_reached"}
_KNOWN_CODES = _CONTEXT_CODES | _NO_CREDIT_CODES | _FILTER_CODES
_KEY_SHAPES = re.compile(r"\b(?:sk|pk|rk|gsk|key|api)-[\w-]{8,}|(?<=Bearer )\S+")

_ERRORS: tuple[tuple[type[BaseException], type[EndpointError], str], ...] = (
    # First match wins, so subclasses stand before their bases.
    (aiohttp.InvalidURL, RequestRejectedError, "the base URL can't be called"),
    (aiohttp.NonHttpUrlClientError, RequestRejectedError, "the base URL can't be called"),
    (aiohttp.ClientConnectorCertificateError, RequestRejectedError, "the certificate is not valid"),
    (aiohttp.TooManyRedirects, RequestRejectedError, "the endpoint redirects without end"),
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

CALL_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What a call through aiohttp may raise; `error_of_exception` maps each."""


def error_of_exception(error: BaseException, *, where: str) -> EndpointError:
    """Return the error that stands for an exception of a call.

    Args:
        error: One of `CALL_ERRORS`.
        where: The endpoint's URL, without credentials.
    """
    ours, what = meaning_of(type(error))
    reason = str(error).strip().rstrip(".")
    remedy = _TRUST if isinstance(error, aiohttp.ClientConnectorCertificateError) else None
    return ours(f"{what}: {reason}" if reason else what, where=where, remedy=remedy)


def meaning_of(kind: type[BaseException]) -> tuple[type[EndpointError], str]:
    """Return the class of ours that stands for a class of exceptions, and what to say of it."""
    for foreign, ours, what in _ERRORS:
        if issubclass(kind, foreign):
            return ours, what
    raise TypeError(f"not an error of a call: {kind!r}")


def error_of_response(
    status: int, headers: Mapping[str, str], raw: bytes, *, where: str, secret: str | None = None
) -> EndpointError:
    """Return the error that stands for a response that is not a success.

    Args:
        status: HTTP status, 300 or above.
        headers: The response's headers.
        raw: The response's body.
        where: The endpoint's URL, without credentials.
        secret: The API key, which the message must not quote.
    """
    code, message = _said(raw)
    what = f"HTTP {status}: {_clean(message, secret)}"
    if _is_context_length(status, code, message):
        remedy = "Shorten the prompt or ask a model with a wider window"
        return ContextLengthError(what, where=where, remedy=remedy, http_status=status)
    kind, advice = _kind(status, code)
    wait_s = retry_after_s(headers, now=datetime.now(UTC)) if kind.retryable else None
    return kind(what, where=where, remedy=advice, http_status=status, retry_after_s=wait_s)


def _kind(status: int, code: str) -> tuple[type[EndpointError], str | None]:
    if code in _NO_CREDIT_CODES:
        return RequestRejectedError, "Top up the account or raise its limit"
    if code in _FILTER_CODES:
        return ContentFilterError, "Rephrase the prompt, or let another model answer"
    if status == 429:  # noqa: PLR2004 - too many requests
        return RateLimitedError, None
    if status in _TIMEOUT_STATUSES:
        return EndpointTimeoutError, None
    if status >= 500 or status in _TRANSIENT_STATUSES:  # noqa: PLR2004 - the server's own failure
        return EndpointUnavailableError, None
    return RequestRejectedError, _REMEDIES.get(status)


_REMEDIES = {
    301: "Put the address that the endpoint redirects to into the pool's base_url",
    302: "Put the address that the endpoint redirects to into the pool's base_url",
    307: "Put the address that the endpoint redirects to into the pool's base_url",
    308: "Put the address that the endpoint redirects to into the pool's base_url",
    401: "Check the key in the variable that the pool's api_key_env names",
    403: "Check that the key may use this model",
    404: "Check the pool's base_url and the model's name at the endpoint",
    407: "Put the proxy's user and password into the URL in the variable that names the proxy",
}


def _is_context_length(status: int, code: str, message: str) -> bool:
    if code in _CONTEXT_CODES:
        return True
    return status in _CONTEXT_STATUSES and _CONTEXT_MESSAGE.search(message) is not None


def _said(raw: bytes) -> tuple[str, str]:
    """Return the error's code and text, in the forms that compatible servers use."""
    text = raw.decode("utf-8", errors="replace")
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return "", text
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return "", str(error)
    message = error.get("message") or error.get("detail") or text
    codes = [error.get("code"), error.get("type")]
    known = [code for code in codes if code in _KNOWN_CODES]
    return (known or [""])[0], message if isinstance(message, str) else text


def _clean(text: str, secret: str | None) -> str:
    if secret:
        text = text.replace(secret, "***")
    text = " ".join(_KEY_SHAPES.sub("***", text).split())
    if len(text) > SNIPPET_CHARACTERS:
        return text[:SNIPPET_CHARACTERS] + " [...]"
    return text.rstrip(".") or "no message"
