"""Permission to make one call, at one of a candidate model's endpoints."""

import asyncio
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Self

from routoo.client.limiter.endpoint_limiter import Gate
from routoo.client.model_endpoints import Place
from routoo.domain.pool import CandidateModel


class Permit:
    """Implements `routoo.ports.Permit`; an async context manager.

    Args:
        places: The model's endpoints by their gates.
        tokens: What the call will probably take, prompt and completion together.
        retry: Whether an earlier call for the same job failed.
    """

    def __init__(self, places: Mapping[Gate, Place], tokens: int, *, retry: bool) -> None:
        self._places, self._tokens, self._retry = places, tokens, retry
        self._bucket_no: int | None = None
        self._started_at_s: float | None = None

    async def __aenter__(self) -> Self:
        for gate in self._places:
            gate.expect(self._tokens)
        self._gate = await pass_first_door(self._places.keys(), retry=self._retry)
        self._entered_at_s = self._gate.now_s()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started_at_s is not None:
            self._gate.lead.called(self._gate.now_s() - self._started_at_s)
        self._gate.leave(started=self._started_at_s is not None)

    @property
    def model(self) -> CandidateModel:
        """The model to ask, placed at the endpoint that has room."""
        return self._places[self._gate].model

    async def start(self) -> None:
        """Wait until the call may be sent.

        Raises:
            EndpointClosedError: The endpoint's breaker opened meanwhile.
        """
        self._gate.lead.readied(self._gate.now_s() - self._entered_at_s)
        self._bucket_no = await self._gate.start(self._tokens)
        self._started_at_s = self._gate.now_s()

    def used(self, tokens: int) -> None:
        """Tell how many tokens the call really took, prompt and completion together."""
        self._gate.correct(self._bucket_no, tokens - self._tokens)
        if self._retry:
            self._gate.repay()


async def pass_first_door(gates: Collection[Gate], *, retry: bool) -> Gate:
    """Wait until one of an endpoint's equals lets a call in: the one with most room.

    Raises:
        EndpointClosedError: A breaker opened meanwhile; another endpoint may be open.
    """
    first, *equals = gates
    roomiest = max(gates, key=lambda gate: gate.room) if equals else first
    if roomiest.may_enter(retry=retry):
        roomiest.enter(retry=retry)
        return roomiest
    turn: asyncio.Future[Gate] = asyncio.get_running_loop().create_future()
    for gate in gates:
        gate.queue(turn, retry=retry)
    try:
        return await turn
    except asyncio.CancelledError:
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            turn.result().leave(started=False)
        raise
