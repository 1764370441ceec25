"""Permission to make one call, at one of a candidate model's endpoints."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from routoo.client.limiter.endpoint_limiter import EndpointLimiter, admit_to_any
from routoo.client.model_endpoints import ModelEndpoint
from routoo.domain.pool import CandidateModel


class EndpointPermit:
    """Implements `routoo.ports.Permit`; an async context manager.

    Args:
        endpoints: The model's endpoints by their limiters.
        tokens: What the call will probably take, prompt and completion together.
        retry: Whether an earlier call for the same job failed.
    """

    def __init__(
        self, endpoints: Mapping[EndpointLimiter, ModelEndpoint], tokens: int, *, retry: bool
    ) -> None:
        self._endpoints, self._tokens, self._retry = endpoints, tokens, retry
        self._bucket_no: int | None = None
        self._started_at_s: float | None = None

    async def __aenter__(self) -> Self:
        for limiter, endpoint in self._endpoints.items():
            limiter.expect(self._tokens, endpoint.limits)
        self._limiter = await admit_to_any(self._endpoints.keys(), retry=self._retry)
        self._admitted_at_s = self._limiter.now_s()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started_at_s is not None:
            self._limiter.prefetch.note_call(self._limiter.now_s() - self._started_at_s)
        self._limiter.release(started=self._started_at_s is not None)

    @property
    def model(self) -> CandidateModel:
        """The model to ask, with the endpoint that admitted the call as its only one."""
        return self._endpoints[self._limiter].model

    async def start(self) -> None:
        """Wait until the call may be sent.

        Raises:
            EndpointClosedError: The endpoint asked for a pause or its breaker opened meanwhile.
        """
        self._limiter.prefetch.note_ready(self._limiter.now_s() - self._admitted_at_s)
        self._bucket_no = await self._limiter.start(self._tokens)
        self._started_at_s = self._limiter.now_s()

    def used(self, tokens: int) -> None:
        """Report how many tokens the call took, prompt and completion together."""
        self._limiter.correct_tokens(self._bucket_no, tokens - self._tokens)
        if self._retry:
            self._limiter.note_answered_retry()
