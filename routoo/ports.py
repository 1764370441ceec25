"""States what the library's rooms need of the outside world, as narrow protocols."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from routoo.domain.absence import Absence
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import Completion
from routoo.domain.pool import CandidateModel
from routoo.domain.prediction import Predictions
from routoo.domain.provider_batch import ProviderBatch, ProviderRow
from routoo.errors import EndpointError
from routoo.limits.records import EndpointReport, Grant


class Predictor(Protocol):
    """Estimates how well each model of a pool would answer, without running any."""

    def predict(self, prompts: Sequence[str], models: Sequence[str]) -> Predictions:
        """Return estimates for the prompts, columns in the order of the models' names."""
        ...

    def covering(self, models: Sequence[CandidateModel]) -> "Predictor | None":
        """Return a predictor that knows all these models; None where there is none.

        It may place those that it was not trained on by what their pool says of them.
        """
        ...

    def prompt_factors(self, models: Sequence[str]) -> Sequence[float]:
        """Return how many prompt tokens each model bills for one that is estimated."""
        ...

    def floor_margins(self, models: Sequence[str], confidence: float) -> Sequence[float]:
        """Return the margin to subtract from each model's predicted quality for a confident floor.

        Args:
            models: Names of the models.
            confidence: Probability that the lowered quality is reached.

        Raises:
            CheckpointError: The predictor was not fitted for that.
        """
        ...


class SharedLimits(Protocol):
    """Keeps the accounts of endpoints for all processes that call them."""

    async def exchange(self, reports: Sequence[EndpointReport]) -> list[Grant]:
        """Take reports in, and return for each what its process may do next, in order.

        Raises:
            StoreError: The accounts can't be reached; slots that were granted expire.
        """
        ...


class Permit(Protocol):
    """Permission for one call: it was admitted to an endpoint, and may soon start."""

    @property
    def model(self) -> CandidateModel:
        """The model to ask, with the endpoint that admitted the call as its only one."""
        ...

    @property
    def starts_soon(self) -> bool:
        """Whether it may start while the next commit is awaited."""
        ...

    async def start(self) -> None:
        """Wait until the call may be sent within the endpoint's limits; to be called once.

        Raises:
            EndpointClosedError: The endpoint asked for a pause, or keeps failing.
        """
        ...

    def used(self, tokens: int) -> None:
        """Report how many tokens the call took, prompt and completion together."""
        ...


class ChatClient(Protocol):
    """Calls model endpoints."""

    @property
    def behaviour(self) -> KnownBehaviour:
        """What is known of endpoints beside their pools; what calls show is added to it."""
        ...

    def admit(
        self, model: CandidateModel, tokens: int, *, retry: bool = False
    ) -> AbstractAsyncContextManager[Permit]:
        """Wait until an endpoint of the model admits a call, and hold the permit to make it.

        The order is: reserve the money once admitted, `start` the permit, call `complete` with the
        permit's model. So money is reserved only for calls that are about to be sent, and no slot
        of an endpoint waits for a commit.

        Args:
            model: The candidate model to ask.
            tokens: What the call will probably take, prompt and completion together.
            retry: Whether an earlier call for the same purpose failed: retries have a budget.

        Raises:
            EndpointClosedError: On entry: an endpoint asked for a pause, or keeps failing.
        """
        ...

    def absence(self, model: CandidateModel) -> Absence | None:
        """Return why all endpoints of a model take no calls for now; None where one works.

        While there is a reason no call is admitted, but for a probe now and then.
        """
        ...

    def queue_s(self, model: CandidateModel) -> float:
        """Return how long a call that comes now waits for slots and limits, in seconds.

        It is a lower bound, by the calls of this process that wait already; 0 without such limits.
        """
        ...

    async def look_again(self) -> None:
        """Find out whether endpoints that denied every request still do: somebody may know."""
        ...

    async def complete(
        self, model: CandidateModel, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        """Make one call, without retries.

        Raises:
            EndpointError: The call failed; its class says whether a retry may help.
        """
        ...


class BatchProvider(Protocol):
    """Submits requests to providers' batch APIs, and fetches their answers."""

    async def upload(self, model: CandidateModel, name: str, content: bytes) -> str | None:
        """Upload an input file and return its id; nothing is billed yet.

        None where the provider takes the rows with the creation.

        Raises:
            EndpointError: The call failed.
        """
        ...

    async def create(
        self, model: CandidateModel, file_id: str | None, marker: str, rows: Sequence[ProviderRow]
    ) -> ProviderBatch:
        """Create a batch of some rows, from their uploaded file where there is one.

        Raises:
            EndpointError: The call failed; unless the provider refused it (4xx), the batch may
                exist all the same.
        """
        ...

    async def find(
        self, model: CandidateModel, marker: str, since_s: float
    ) -> ProviderBatch | None:
        """Return the batch that was created with a marker since a time, None if none was.

        Raises:
            EndpointError: The call failed.
        """
        ...

    def keeps_markers(self, model: CandidateModel) -> bool:
        """Return whether `find` can tell batches by their markers."""
        ...

    async def list_since(self, model: CandidateModel, since_s: float) -> list[ProviderBatch]:
        """Return the provider's batches since a time, in seconds since the epoch.

        Raises:
            EndpointError: The call failed.
        """
        ...

    async def holds(self, model: CandidateModel, batch: ProviderBatch, marker: str) -> bool:
        """Return whether a finished batch was created with a marker, by its outcomes.

        Raises:
            EndpointError: The outcomes can't be had.
        """
        ...

    async def get(self, model: CandidateModel, provider_id: str) -> ProviderBatch:
        """Return the state of a batch.

        Raises:
            EndpointError: The call failed; with status 404 the provider has no such batch.
        """
        ...

    async def cancel(self, model: CandidateModel, provider_id: str) -> None:
        """Ask the provider to stop; what it has answered is kept, and billed.

        Raises:
            EndpointError: The call failed, or the batch is over.
        """
        ...

    async def outcomes(
        self, model: CandidateModel, batch: ProviderBatch, rows: Sequence[ProviderRow]
    ) -> Mapping[str, Completion | EndpointError]:
        """Return the outcome of each row of a batch that is over, by the row's custom_id.

        Raises:
            EndpointError: The answers can't be fetched.
        """
        ...


@runtime_checkable
class Feedback(Protocol):
    """Shows the person who started long work how it goes."""

    def note(self, text: str) -> None:
        """Show a remark."""
        ...

    def progress_bar(self, title: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Show a bar while the block runs.

        The block gets a function, and calls it with how many more items are done.
        """
        ...
