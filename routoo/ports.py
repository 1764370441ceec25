"""What the pipeline needs of the outside world, as narrow protocols."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from routoo.domain.completion import Completion
from routoo.domain.pool import CandidateModel
from routoo.domain.prediction import Predictions


class Predictor(Protocol):
    """Estimates how well each model of a pool would answer, without running any."""

    def predict(self, prompts: Sequence[str], models: Sequence[str]) -> Predictions:
        """Return estimates for the prompts, columns in the order of the models' names."""
        ...


class ChatClient(Protocol):
    """Calls model endpoints."""

    def slot(self, model: CandidateModel) -> AbstractAsyncContextManager[None]:
        """Wait for a free place among the endpoint's concurrent calls, and hold it.

        Taken by the caller, not by `complete`, so that money is reserved only for a call that
        can be sent at once.
        """
        ...

    async def complete(
        self, model: CandidateModel, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        """Make one call, without retries.

        Raises:
            EndpointError: The call failed; its class says whether a retry may help.
        """
        ...
