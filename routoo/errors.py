"""Every error that Routoo raises, in one tree.

```
RoutooError
├── ConfigError              settings or a pool file are unusable
├── InputError               a row, file or argument that the user gave is unusable
├── NotFoundError            no such batch, job or file
├── CheckpointError          a predictor checkpoint is unreadable or does not fit
├── InfeasibleError          the limits can't all hold; says what to relax
├── StoreError
│   ├── DatabaseUnavailableError   (retryable)
│   ├── ValueRefusedError          a value of one row can't be stored
│   └── StaleLeaseError            another worker took the shard over
├── BrokerUnavailableError         (retryable)
├── EmbeddedStackError       PostgreSQL, the broker or a local model could not be started
├── DownloadError            a model file could not be fetched or its hash is wrong
└── EndpointError            a call to a model endpoint failed
    ├── RateLimitedError           (retryable, may carry retry_after_s)
    ├── EndpointClosedError        (retryable: its breaker is open; nothing was sent)
    ├── EndpointUnavailableError   (retryable: 5xx, no connection)
    ├── EndpointTimeoutError       (retryable; may have been billed)
    ├── HedgeLostError             (cancelled: another call answered first; may have been billed)
    ├── InvalidResponseError       (retryable: cut off, wrong JSON; may have been billed)
    ├── EmptyAnswerError           (retryable: neither text nor tool calls; billed)
    │   └── TruncatedAnswerError   its limit of tokens was used up before it said anything
    ├── CutAnswerError             (retryable: by a limit of ours; asked again with a higher one)
    ├── InvalidAnswerError         the answer breaks a rule of its job; billed
    ├── EndpointDeniedError        key, credit or address are wrong: every request would fail
    └── RequestRejectedError       4xx: final for this candidate model
        ├── RequestNotFoundError   (retryable once: 404, while other requests are answered)
        ├── ContextLengthError     the prompt does not fit this model's window
        ├── LimitFieldRefusedError the endpoint doesn't take the field that limits its answers
        └── ContentFilterError     the endpoint's content filter refused the prompt or the answer
```

Foreign errors (psycopg, aiohttp, OSError, ...) are mapped to these at one boundary each, with
`raise ... from`.
"""

from enum import StrEnum
from typing import ClassVar, Self


class RoutooError(Exception):
    """Base of all errors; its message says what is wrong, where, and what to do.

    Args:
        what: What is wrong, a sentence without its full stop.
        value: The offending value; never a secret.
        where: File and line, table, URL or setting.
        remedy: What the reader can do about it, a sentence without its full stop.

    Attributes:
        retryable: Whether the same operation may succeed later without a change by the user.
        exit_code: Exit status of a command line that ends with this error.
    """

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        value: object = None,
        where: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.value, self.where, self.remedy = what, value, where, remedy
        super().__init__(self._message())

    def _message(self) -> str:
        where = f"{self.where}: " if self.where else ""
        value = f" (got {self.value!r})" if self.value is not None else ""
        remedy = f" {self.remedy}." if self.remedy else ""
        return f"{where}{self.what}{value}.{remedy}"


class ConfigError(RoutooError):
    """Settings or a pool file are unusable."""

    exit_code = 2


class InputError(RoutooError):
    """A row, file or argument that the user gave is unusable."""

    exit_code = 2


class NotFoundError(RoutooError):
    """No such batch, job or file."""

    exit_code = 3


class CheckpointError(RoutooError):
    """A predictor checkpoint is unreadable or does not fit the backbone or the pool."""

    exit_code = 2


class InfeasibleError(RoutooError):
    """The limits can't all hold; the remedy says what to relax and by how much."""

    exit_code = 2


class StoreError(RoutooError):
    """The database refused or could not do what was asked."""


class DatabaseUnavailableError(StoreError):
    """The database can't be reached at the moment."""

    retryable = True
    exit_code = 4


class ValueRefusedError(StoreError):
    """The database can't hold a value of a row: too large, malformed, or against a constraint."""


class UnreadableRecordError(StoreError):
    """The database holds a record that this version can't read: a newer one may have written it."""


class StaleLeaseError(StoreError):
    """The shard's epoch moved on: another worker owns it now, so nothing was written."""


class BrokerUnavailableError(RoutooError):
    """The message broker can't be reached at the moment."""

    retryable = True
    exit_code = 4


class EmbeddedStackError(RoutooError):
    """PostgreSQL, the broker or a local model could not be started."""

    exit_code = 4


class DownloadError(RoutooError):
    """A model file could not be fetched, or its hash is not the published one."""

    exit_code = 4


class EndpointError(RoutooError):
    """A call to a model endpoint failed.

    Args:
        what: What is wrong.
        value: The offending value.
        where: The endpoint's URL, without credentials.
        remedy: What to do.
        http_status: The answer's HTTP status, if there was an answer.
        retry_after_s: Seconds the endpoint asked to wait, if it did.
    """

    code: ClassVar[str] = "endpoint_error"
    maybe_billed: ClassVar[bool] = False
    """Whether the endpoint may charge for the call: then it counts at its worst case."""
    most_attempts: ClassVar[int] = 1_000
    """Calls of a job to one model that may fail so; a lower limit of the dispatch holds as well."""

    def __init__(
        self,
        what: str,
        *,
        value: object = None,
        where: str | None = None,
        remedy: str | None = None,
        http_status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.http_status, self.retry_after_s = http_status, retry_after_s
        super().__init__(what, value=value, where=where, remedy=remedy)

    def detached(self) -> Self:
        """Return this error without its traceback and causes, which keep whole answers alive."""
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)


class RateLimitedError(EndpointError):
    """The endpoint asked to slow down (HTTP 429)."""

    retryable = True
    code = "rate_limited"


class EndpointClosedError(EndpointError):
    """The endpoint keeps failing, so it is left alone for a while: nothing was sent."""

    retryable = True
    code = "endpoint_closed"


class EndpointUnavailableError(EndpointError):
    """The endpoint failed before it answered, or could not be reached (5xx, connection)."""

    retryable = True
    code = "endpoint_unavailable"


class EndpointTimeoutError(EndpointError):
    """The request was sent, and no answer came in time."""

    retryable = True
    maybe_billed = True
    code = "endpoint_timeout"


class BudgetExhaustedError(EndpointError):
    """The money that is left does not cover the worst case of a call: nothing was sent."""

    code = "budget_exhausted"


class HedgeLostError(EndpointError):
    """The other of two calls for a job answered first; this one was cancelled."""

    retryable = True
    maybe_billed = True
    code = "hedge_lost"


class InvalidResponseError(EndpointError):
    """The endpoint's answer was cut off or is not a completion."""

    retryable = True
    maybe_billed = True
    code = "invalid_response"


class BatchPostponedError(EndpointError):
    """The provider takes the batch later: its queue is full, or it still reads the input file."""

    retryable = True
    code = "batch_postponed"


class EmptyAnswerError(EndpointError):
    """The model answered with nothing: neither text nor tool calls."""

    retryable = True
    code = "empty_answer"
    most_attempts = 2


class TruncatedAnswerError(EmptyAnswerError):
    """The limit of tokens was used up, by reasoning, before the model said anything."""

    code = "truncated_answer"


class CutAnswerError(EndpointError):
    """A limit that we set, not the request, cut the answer: it is billed, and no answer."""

    retryable = True
    code = "answer_cut"


class InvalidAnswerError(EndpointError):
    """The answer breaks a rule of its job: it is billed, and not taken for a good one."""

    code = "validation_failed"


class DenialReason(StrEnum):
    """Why an endpoint takes no requests of ours at all."""

    UNAUTHORIZED = "unauthorized"
    """It doesn't know the key, or got none (401)."""
    NO_CREDIT = "no_credit"
    """The account has no money left, or reached its quota (402)."""
    FORBIDDEN = "forbidden"
    """The key may not use the model (403)."""
    MISCONFIGURED = "misconfigured"
    """The pool names an address, a model or a proxy that can't be used."""
    NO_API = "no_api"
    """Nothing says why: no API stands at the address (404, 405), or this one request finds none."""


class EndpointDeniedError(EndpointError):
    """The endpoint takes no requests of ours: the fault is its configuration's, not the request's.

    Args:
        what: What is wrong.
        reason: Which of the reasons it is.
        where: The endpoint's URL, without credentials.
        remedy: What to do.
        http_status: The answer's HTTP status, if there was an answer.
    """

    code = "endpoint_denied"

    def __init__(
        self,
        what: str,
        *,
        reason: DenialReason,
        where: str | None = None,
        remedy: str | None = None,
        http_status: int | None = None,
    ) -> None:
        self.reason = reason
        super().__init__(what, where=where, remedy=remedy, http_status=http_status)


class RequestRejectedError(EndpointError):
    """The endpoint refused the request (4xx); asking the same model again won't help."""

    code = "request_rejected"


class RequestNotFoundError(RequestRejectedError):
    """The endpoint says 404 or 405 of this request, without a reason, and answers others."""

    retryable = True
    most_attempts = 2
    others: ClassVar[str] = "it answers other requests"

    @classmethod
    def of(cls, denial: EndpointDeniedError) -> Self:
        """Return what a denial is where the endpoint is known to answer."""
        return cls(
            f"{denial.what}; {cls.others}",
            where=denial.where,
            remedy="Look for what is special about this request",
            http_status=denial.http_status,
        )


class NotFoundInARowError(RequestNotFoundError):
    """It says so of the latest requests, one after the other: it may have gone away."""

    most_attempts = EndpointError.most_attempts
    others = "it answered other requests before, and none since"


class ContextLengthError(RequestRejectedError):
    """The prompt and its answer don't fit this model's context window."""

    code = "context_length_exceeded"


class LimitFieldRefusedError(RequestRejectedError):
    """The endpoint doesn't take the field that limits its answers."""

    code = "limit_field_refused"


class ContentFilterError(RequestRejectedError):
    """The endpoint's content filter refused the prompt, or cut the answer."""

    code = "content_filter"
