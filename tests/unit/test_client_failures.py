"""What a failed call means: every exception and status has one error of ours."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp import client_exceptions

from routoo.client.failures import CALL_ERRORS, error_of_exception, error_of_response, meaning_of
from routoo.client.formats.openai import OpenAIFormat
from routoo.client.ratelimit_headers import parse_retry_after, retry_after_s
from routoo.errors import (
    ContextLengthError,
    DenialReason,
    EndpointDeniedError,
    EndpointError,
    EndpointTimeoutError,
    EndpointUnavailableError,
    InvalidResponseError,
    RateLimitedError,
    RequestRejectedError,
)

URL = "http://endpoint.test/v1/chat/completions"
NOW = datetime(2026, 1, 1, tzinfo=UTC)

UNREACHED = {
    "ClientConnectorError",
    "ClientConnectorDNSError",
    "ClientConnectorSSLError",
    "ClientHttpProxyError",
    "ClientProxyConnectionError",
    "ClientSSLError",
    "UnixClientConnectorError",
}
TIMEOUTS = {"ServerTimeoutError", "SocketTimeoutError"}
FINAL = {
    "ClientConnectorCertificateError",
    "InvalidURL",
    "InvalidUrlClientError",
    "InvalidUrlRedirectClientError",
    "NonHttpUrlClientError",
    "NonHttpUrlRedirectClientError",
    "TooManyRedirects",
}
LOST = {
    "ClientConnectionError",
    "ClientConnectionResetError",
    "ClientError",
    "ClientOSError",
    "ClientPayloadError",
    "ClientResponseError",
    "ContentTypeError",
    "ServerConnectionError",
    "ServerDisconnectedError",
    "ServerFingerprintMismatch",
    "WSMessageTypeError",
    "WSServerHandshakeError",
    "RedirectClientError",
    "UploadAbortedError",
}


def error_of(
    status: int, headers: Mapping[str, str], raw: bytes, *, where: str, secret: str | None = None
) -> EndpointError:
    details = OpenAIFormat().read_error(status, raw)
    return error_of_response(details, status, headers, where=where, secret=secret)


def _all_client_errors() -> dict[str, type[BaseException]]:
    found = vars(client_exceptions).values()
    return {
        kind.__name__: kind
        for kind in found
        if isinstance(kind, type) and issubclass(kind, aiohttp.ClientError)
    }


def _expected() -> dict[str, type[EndpointError]]:
    return (
        dict.fromkeys(UNREACHED | {"ConnectionTimeoutError"}, EndpointUnavailableError)
        | dict.fromkeys(TIMEOUTS, EndpointTimeoutError)
        | dict.fromkeys(FINAL, EndpointDeniedError)
        | dict.fromkeys(LOST, InvalidResponseError)
    )


def test_every_exception_of_the_http_library_has_its_meaning() -> None:
    found = {name: meaning_of(kind)[0] for name, kind in _all_client_errors().items()}
    expected = _expected()
    assert found == {name: expected.get(name) for name in found}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), EndpointTimeoutError),
        (ConnectionResetError(104, "reset"), InvalidResponseError),
        (OSError("no route"), InvalidResponseError),
    ],
)
def test_exceptions_of_the_system_have_their_meaning(
    error: Exception, kind: type[EndpointError]
) -> None:
    assert isinstance(error, CALL_ERRORS)
    mapped = error_of_exception(error, where=URL)
    assert type(mapped) is kind
    assert mapped.retryable
    assert URL in str(mapped)


def test_only_errors_of_a_call_are_mapped() -> None:
    with pytest.raises(TypeError):
        error_of_exception(ValueError("a bug"), where=URL)


STATUSES = [
    (429, RateLimitedError),
    (500, EndpointUnavailableError),
    (502, EndpointUnavailableError),
    (503, EndpointUnavailableError),
    (504, EndpointTimeoutError),
    (529, EndpointUnavailableError),
    (408, EndpointUnavailableError),
    (409, EndpointUnavailableError),
    (425, EndpointUnavailableError),
    (301, EndpointDeniedError),
    (400, RequestRejectedError),
    (401, EndpointDeniedError),
    (402, EndpointDeniedError),
    (403, EndpointDeniedError),
    (404, RequestRejectedError),
    (413, RequestRejectedError),
    (422, RequestRejectedError),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
def test_every_status_has_its_meaning(status: int, kind: type[EndpointError]) -> None:
    error = error_of(status, {}, b'{"error": {"message": "no"}}', where=URL)
    assert type(error) is kind
    assert error.http_status == status
    assert "no" in str(error)


CONTEXT = [
    (400, b'{"error": {"message": "x", "code": "context_length_exceeded"}}'),
    (400, b'{"error": {"message": "This model\'s maximum context length is 4096 tokens."}}'),
    (400, b'{"error": {"message": "prompt is too long: 9 > 5"}}'),
    (400, b'{"object": "error", "message": "maximum context length is 10", "code": 400}'),
    (400, b'{"error": {"type": "exceed_context_size_error", "message": "y", "code": 400}}'),
    (500, b'{"error": {"message": "Context size has been exceeded."}}'),
    (422, b'{"error": "Input exceeds the available context size"}'),
    (413, b"Please reduce the length of the messages."),
]


@pytest.mark.parametrize(("status", "raw"), CONTEXT)
def test_a_prompt_too_long_is_told_from_other_refusals(status: int, raw: bytes) -> None:
    assert type(error_of(status, {}, raw, where=URL)) is ContextLengthError


def test_no_credit_left_is_not_worth_a_retry() -> None:
    raw = b'{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    error = error_of(429, {}, raw, where=URL)
    assert isinstance(error, EndpointDeniedError)
    assert error.reason is DenialReason.NO_CREDIT
    assert not error.retryable


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"[]", b"null", b'{"error": null}', b'"x"'])
def test_a_body_of_any_shape_makes_a_message(raw: bytes) -> None:
    assert "HTTP 500" in str(error_of(500, {}, raw, where=URL))


def test_a_message_never_holds_the_key() -> None:
    raw = b'{"error": {"message": "key s3cret and sk-abcdefghijkl and Bearer xyz are wrong"}}'
    text = str(error_of(401, {}, raw, where=URL, secret="s3cret"))  # noqa: S106 - fake
    assert not any(part in text for part in ("s3cret", "abcdefghijkl", "xyz"))
    assert "api_key_env" in text


def test_a_long_page_is_quoted_in_part() -> None:
    assert len(str(error_of(500, {}, b"x" * 10_000, where=URL))) < 500


def test_retry_after_is_read_as_seconds_and_as_a_date() -> None:
    date = (NOW + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert parse_retry_after("7", NOW) == 7
    assert parse_retry_after("0.5", NOW) == 0.5
    assert parse_retry_after(date, NOW) == 90
    assert parse_retry_after("Thu, 01 Jan 2026 00:01:00 -0000", NOW) == 60


def test_a_date_gone_by_means_now() -> None:
    assert parse_retry_after("Sun, 06 Nov 1994 08:49:37 GMT", NOW) == 0


@pytest.mark.parametrize("value", [None, "", "soon", "nan", "inf", "-1e999"])
def test_an_unusable_retry_after_is_ignored(value: str | None) -> None:
    assert parse_retry_after(value, NOW) is None


def test_milliseconds_are_finer_than_seconds() -> None:
    assert retry_after_s({"retry-after-ms": "250", "Retry-After": "1"}, now=NOW) == 0.25


def test_a_rate_limit_carries_its_wait() -> None:
    assert error_of(429, {"Retry-After": "3"}, b"", where=URL).retry_after_s == 3
    assert error_of(503, {"Retry-After": "3"}, b"", where=URL).retry_after_s == 3
