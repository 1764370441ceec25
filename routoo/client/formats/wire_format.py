"""States what the client needs of an API's format of requests and answers.

An endpoint speaks one format. A format turns a request, which its owner gave in OpenAI's form, into
the endpoint's form, and reads answers, usage and errors into our own records. Another
provider's API is one more class that implements `WireFormat`, and `BatchFormat` if it has a batch
API.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import aiohttp
import orjson

from routoo.client.token_counts import TokenCounter
from routoo.domain.completion import Completion
from routoo.domain.pool import BatchChannel, CandidateModel
from routoo.domain.provider_batch import ProviderBatch, ProviderRow
from routoo.errors import EndpointError, RequestRejectedError

Outcome = Completion | EndpointError
"""What came of a row of a provider's batch."""


EventReader = Callable[[dict[str, Any]], Iterable[dict[str, Any]]]
"""Makes chunks of OpenAI's form of an event of a streamed answer: none, one or several."""


class ErrorKind(Enum):
    """What an error response is about, where its status alone doesn't say."""

    CONTEXT_LENGTH = "context_length"
    """The request doesn't fit the model's context window."""
    CONTENT_FILTER = "content_filter"
    """The provider's filter refused the request."""
    LIMIT_FIELD = "limit_field"
    """The endpoint doesn't take the field that limits its answers."""
    REQUEST = "request"
    """The endpoint refuses this one request, whatever the status says."""
    NO_CREDIT = "no_credit"
    """The account has no money left, or reached its limit."""
    UNAUTHORIZED = "unauthorized"
    """The endpoint doesn't know the key."""
    FORBIDDEN = "forbidden"
    """The key may not use the model."""
    MISCONFIGURED = "misconfigured"
    """There is no such model."""
    NO_API = "no_api"
    """There is no API at this address; or the request alone finds none."""
    RATE_LIMIT = "rate_limit"
    """The endpoint gets more calls than it allows."""
    OVERLOADED = "overloaded"
    """The endpoint has too much to do, or loads the model."""


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What an error says, in the body of a response or inside an answer."""

    kind: ErrorKind | None
    """None leaves the meaning to the status."""
    message: str
    wait_s: float | None = None
    """How long it asks to wait, in seconds; None where it asks for no wait."""
    status: int | None = None
    """HTTP status that it names itself, as an error inside a success does."""


@dataclass(frozen=True, slots=True)
class SentCall:
    """The facts of a call that are needed to read its answer."""

    model: CandidateModel
    body: Mapping[str, Any]
    """The request as its owner gave it."""
    where: str
    """The endpoint's URL for messages."""
    counter: TokenCounter | None = None
    """Counts tokens where the answer reports none; unset, they count at their upper bound."""
    secret: str | None = None
    """The API key, which no message may quote."""


class WireFormat(Protocol):
    """How an API words requests, answers and errors."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers that every request carries, beside the one of the API key."""
        ...

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path that `path_of` may return."""
        ...

    @property
    def batches(self) -> "BatchFormat | None":
        """The format of the provider's batch API; None where it has none."""
        ...

    def path_of(self, body: Mapping[str, Any]) -> str:
        """Return the path, below the base URL, that a request goes to."""
        ...

    def request(self, model: CandidateModel, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request as it goes out: with the model's name and a limit of its tokens."""
        ...

    def read_completion(
        self, answer: object, call: SentCall, *, http_status: int, latency_s: float
    ) -> Completion:
        """Read an answer, decoded from JSON, of a response that is a success.

        An answer that holds an error beside what the model wrote has the error as its `failure`.

        Raises:
            EndpointError: It is not a completion: an error, or something else.
        """
        ...

    def read_error(self, status: int, raw: bytes) -> ErrorDetails:
        """Read the body of a response that is not a success."""
        ...

    def event_reader(self) -> EventReader:
        """Return what reads the events of one streamed answer, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class BatchInput:
    """The rows of a batch that is to be created."""

    file_id: str | None
    """The uploaded input file; None where the API takes the rows themselves."""
    rows: Sequence[ProviderRow]
    """At least one, all with the same URL."""


@dataclass(frozen=True, slots=True)
class BatchApiRequest:
    """One request of a batch API."""

    method: str
    path: str
    """Below the base URL."""
    data: aiohttp.FormData | bytes | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    moves_file: bool = False
    """Whether a file goes up or comes down, which takes longer than other requests."""


@dataclass(frozen=True, slots=True)
class ListedBatch:
    """A batch in a provider's list."""

    batch: ProviderBatch
    marker: str | None
    """What `BatchFormat.create` was given, if it is a batch of ours."""
    created_at_s: float
    """Seconds since the epoch; 0 where the provider doesn't tell."""


@dataclass(frozen=True, slots=True)
class BatchPage:
    """A page of a provider's list of batches, the newest batch first."""

    batches: tuple[ListedBatch, ...]
    next_after: str | None
    """Argument of `BatchFormat.list_page` for the next page; None on the last one."""


class BatchFormat(Protocol):
    """How a provider's batch API words its requests, answers and files."""

    @property
    def keeps_markers(self) -> bool:
        """Whether the provider's list of batches shows the markers that they were created with."""
        ...

    def row_url(self, channel: BatchChannel, body: Mapping[str, Any]) -> str:
        """Return the URL that a row names; all rows of one batch must have the same."""
        ...

    def encode_row(self, model: CandidateModel, channel: BatchChannel, row: ProviderRow) -> bytes:
        """Return a row as the input file holds it, its line break included.

        Raises:
            RequestRejectedError: The request can't be sent.
        """
        ...

    def upload(self, name: str, content: bytes) -> BatchApiRequest | None:
        """Return the request that uploads an input file; None where the API has no such files."""
        ...

    def create(
        self, model: CandidateModel, channel: BatchChannel, given: BatchInput, marker: str
    ) -> BatchApiRequest:
        """Return the request that creates a batch.

        Raises:
            RequestRejectedError: A row can't be sent.
        """
        ...

    def list_page(self, after: str | None) -> BatchApiRequest:
        """Return the request for a page of the provider's batches, the newest first."""
        ...

    def get(self, provider_id: str) -> BatchApiRequest:
        """Return the request for a batch's state."""
        ...

    def cancel(self, provider_id: str) -> BatchApiRequest:
        """Return the request that cancels a batch."""
        ...

    def result_files(self, batch: ProviderBatch) -> list[BatchApiRequest]:
        """Return the requests for the files that hold a finished batch's outcomes."""
        ...

    def read_file_id(self, raw: bytes, where: str) -> str:
        """Read the answer to `upload`.

        Raises:
            InvalidResponseError: It is not of this API; so do the other methods that read answers.
        """
        ...

    def is_postponed(self, raw: bytes) -> bool:
        """Return whether a refusal to create a batch says that another attempt may succeed."""
        ...

    def read_batch(self, raw: bytes, where: str) -> ProviderBatch:
        """Read the answer to `create` or `get`."""
        ...

    def read_page(self, raw: bytes, where: str) -> BatchPage:
        """Read the answer to `list_page`."""
        ...

    def read_marker(self, files: Iterable[bytes], markers: Iterable[str]) -> str | None:
        """Return the one of some markers that a finished batch's outcomes show, None for none."""
        ...

    def read_outcomes(
        self,
        files: Iterable[bytes],
        model: CandidateModel,
        batch: ProviderBatch,
        rows: Iterable[ProviderRow],
        counter: TokenCounter | None = None,
    ) -> dict[str, Outcome]:
        """Return what came of each row that the files name, by the row's custom_id.

        Lines that are not JSON, and rows that were not sent, are ignored. A row that no file names
        may have been billed, which the caller has to account for.
        """
        ...


def encode_json(sent: Mapping[str, Any], *, where: str) -> bytes:
    """Return a request as JSON.

    Raises:
        RequestRejectedError: The request holds something that JSON can't carry.
    """
    try:
        return orjson.dumps(sent)
    except TypeError as error:
        raise RequestRejectedError(
            f"the request can't be sent as JSON: {error}",
            where=where,
            remedy="Remove lone surrogates and numbers beyond 64 bits from the request",
        ) from error
