"""Makes single calls: asks the chosen models in turn, each within limits and with its money.

`CallLedger` accounts for them: money first, then what they came to, in groups.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol, TypeVar
from uuid import UUID, uuid4

import structlog

from producer.gateway.errors import ApiError
from producer.gateway.live_choice import LiveCandidate, LiveChoice
from routoo.client.endpoints import ChatEndpoints
from routoo.client.failures import error_of_completion
from routoo.client.stream import AnswerStream
from routoo.domain.completion import Completion
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import estimate_call_tokens
from routoo.errors import EndpointClosedError, EndpointError, EndpointUnavailableError, RoutooError
from routoo.ports import Permit
from routoo.store import keys
from routoo.store.database import Database
from routoo.store.keys import KeyRecord, SettledCall

_FLUSH_EVERY_S = 0.05
_RETRY_S = 1.0
_WRITE_OFF_EVERY_S = 600.0
_LONGEST_CALL_S = 7_200.0
"""No call is in flight for longer, so that one as old was left by a gateway that died."""
Found_co = TypeVar("Found_co", covariant=True)
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class CallLedger:
    """Reserves and settles; `run` writes what was settled until it is cancelled."""

    database: Database
    _settled: list[SettledCall] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def reserve(
        self, call_id: UUID, key: KeyRecord | None, model: str, worst_case_usd: Decimal
    ) -> None:
        """Set a call's worst case aside, where its key has a limit.

        Raises:
            ApiError: The key may not spend that much today.
        """
        if key is None or key.limit_usd is None:
            return
        async with self.database.transaction() as conn:
            granted = await keys.reserve_call(conn, call_id, key.id, model, worst_case_usd)
        if not granted:
            raise ApiError(
                429,
                f"A call to {model} may cost {worst_case_usd:.6f} USD, more than the key "
                f"{key.name} may spend today (UTC) beside its other calls. Lower max_tokens, or "
                "wait until tomorrow.",
                code="insufficient_quota",
                kind="insufficient_quota",
            )

    def settle(self, call: SettledCall) -> None:
        """Record how a call ended, soon: nobody waits for it."""
        self._settled.append(call)
        self._wake.set()

    async def run(self) -> None:
        """Write what was settled, in groups; and now and then what dead gateways left."""
        write_off_at_s = 0.0
        while True:
            now_s = asyncio.get_running_loop().time()
            try:
                if now_s >= write_off_at_s:
                    write_off_at_s = now_s + _WRITE_OFF_EVERY_S
                    async with self.database.transaction() as conn:
                        await keys.write_off_calls(conn, _LONGEST_CALL_S)
                await self.flush()
            except RoutooError as error:
                _log.warning("gateway.calls_not_settled", reason=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _WRITE_OFF_EVERY_S)
            self._wake.clear()
            await asyncio.sleep(_FLUSH_EVERY_S)

    async def flush(self) -> None:
        """Write what was settled so far.

        Raises:
            StoreError: The database failed; the calls are kept.
        """
        calls = list(self._settled)
        if not calls:
            return
        async with self.database.transaction() as conn:
            await keys.settle_calls(conn, calls)
        del self._settled[: len(calls)]


_ADMISSION_S = 30.0
"""Longest wait for an endpoint to admit a call while another model may be asked, in seconds."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer, and what it took."""

    candidate: LiveCandidate
    completion: Completion
    cost_usd: Decimal
    passed: tuple[str, ...]
    """Models that were asked before, each with its error."""


@dataclass(slots=True)
class OpenStream:
    """An answer that is being streamed; `events` settles the call however the stream ends."""

    candidate: LiveCandidate
    stream: AnswerStream
    passed: tuple[str, ...]
    call: "SingleCall"
    cost_usd: Decimal | None = None
    """Known once the stream has ended."""

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the chunks of the answer, and settle the call after the last one.

        Raises:
            EndpointError: The stream broke off: the call counts at its worst case.
        """
        try:
            async for event in self.stream.events():
                yield event
            self.cost_usd, _ = self.call.answered(self.stream.completion())
        finally:
            await self.call.close()


@dataclass(slots=True)
class SingleCall:
    """A call that was sent; it is settled once, at its worst case where no usage arrives."""

    ledger: CallLedger
    id: UUID
    key_id: UUID | None
    candidate: LiveCandidate
    permit: Permit
    exits: AsyncExitStack
    began_s: float = field(default_factory=time.perf_counter)
    settled: bool = False

    def answered(self, completion: Completion) -> tuple[Decimal, EndpointError | None]:
        """Settle the call by the usage of its answer.

        Returns:
            Its cost in USD, and what makes the answer a failure.
        """
        usage = completion.usage
        cost_usd = usage.cost_usd(self.candidate.model)
        self.permit.used(usage.total_tokens)
        error = error_of_completion(self.candidate.model.name, completion)
        self._settle(
            "succeeded" if error is None else "failed",
            cost_usd,
            (usage.prompt_tokens, usage.completion_tokens),
            None if error is None else error.code,
        )
        return cost_usd, error

    def failed(self, error: EndpointError) -> None:
        """Settle a call without an answer, at its worst case if it may have been billed."""
        cost_usd = self.candidate.worst_case_usd if error.maybe_billed else Decimal(0)
        self._settle("failed", cost_usd, (None, None), error.code)

    async def close(self) -> None:
        """Give the slot back; a call that is not settled yet may have been billed."""
        if not self.settled:
            self._settle("failed", self.candidate.worst_case_usd, (None, None), "cut_off")
        await self.exits.aclose()

    def _settle(
        self,
        status: str,
        cost_usd: Decimal,
        tokens: tuple[int | None, int | None],
        error_code: str | None,
    ) -> None:
        self.settled = True
        self.ledger.settle(
            SettledCall(
                self.id,
                self.key_id,
                self.candidate.model.name,
                self.candidate.worst_case_usd,
                status,
                cost_usd,
                *tokens,
                time.perf_counter() - self.began_s,
                error_code,
            )
        )


@dataclass(frozen=True, slots=True)
class LiveCaller:
    """Makes the calls of one gateway."""

    client: ChatEndpoints
    ledger: CallLedger

    async def complete(
        self,
        choice: LiveChoice,
        body: Mapping[str, Any],
        key: KeyRecord | None,
        timeout_s: float | None,
    ) -> Answered:
        """Ask the models in turn until one answers.

        Raises:
            EndpointError: None did; this is the last one's error.
            ApiError: The key may not spend what a call to any of them may cost.
        """

        async def ask(candidate: LiveCandidate, *, is_last: bool) -> tuple[Completion, Decimal]:
            call = await self._send(candidate, body, key, is_last=is_last)
            try:
                return await self._answer(call, body, timeout_s)
            finally:
                await call.close()

        candidate, (completion, cost_usd), passed = await _in_turn(choice, ask)
        return Answered(candidate, completion, cost_usd, passed)

    async def stream(
        self,
        choice: LiveChoice,
        body: Mapping[str, Any],
        key: KeyRecord | None,
        timeout_s: float | None,
    ) -> OpenStream:
        """Ask the models in turn until one begins to answer.

        Raises:
            EndpointError: None did.
            ApiError: As `complete`.
        """

        async def ask(
            candidate: LiveCandidate, *, is_last: bool
        ) -> tuple[SingleCall, AnswerStream]:
            call = await self._send(candidate, body, key, is_last=is_last)
            return call, await self._open(call, body, timeout_s)

        candidate, (call, stream), passed = await _in_turn(choice, ask)
        return OpenStream(candidate, stream, passed, call)

    async def _send(
        self,
        candidate: LiveCandidate,
        body: Mapping[str, Any],
        key: KeyRecord | None,
        *,
        is_last: bool,
    ) -> SingleCall:
        """Wait until a call may be sent, with its money set aside; the caller closes it."""
        model = self.client.behaviour.apply(candidate.model)
        call_id, key_id = uuid4(), None if key is None else key.id
        async with AsyncExitStack() as exits:
            admitted = self.client.admit(model, estimate_call_tokens(body, model))
            permit = await _enter(exits, admitted, model, None if is_last else _ADMISSION_S)
            await self.ledger.reserve(call_id, key, model.name, candidate.worst_case_usd)
            call = SingleCall(self.ledger, call_id, key_id, candidate, permit, exits.pop_all())
        try:
            await permit.start()
        except BaseException as error:
            # Nothing was sent: this frees the money.
            given_up = EndpointClosedError("it was given up before it was sent")
            call.failed(error if isinstance(error, EndpointClosedError) else given_up)
            await call.close()
            raise
        return call

    async def _answer(
        self, call: SingleCall, body: Mapping[str, Any], timeout_s: float | None
    ) -> tuple[Completion, Decimal]:
        try:
            completion = await self.client.complete(call.permit.model, body, timeout_s=timeout_s)
        except EndpointError as error:
            call.failed(error)
            raise
        cost_usd, failure = call.answered(completion)
        if failure is not None:
            raise failure
        return completion, cost_usd

    async def _open(
        self, call: SingleCall, body: Mapping[str, Any], timeout_s: float | None
    ) -> AnswerStream:
        try:
            return await call.exits.enter_async_context(
                self.client.stream(call.permit.model, body, timeout_s=timeout_s)
            )
        except EndpointError as error:
            call.failed(error)
            await call.close()
            raise
        except BaseException:
            await call.close()
            raise


class _Ask(Protocol[Found_co]):
    def __call__(self, candidate: LiveCandidate, *, is_last: bool) -> Awaitable[Found_co]: ...


async def _in_turn(
    choice: LiveChoice, ask: _Ask[Found_co]
) -> tuple[LiveCandidate, Found_co, tuple[str, ...]]:
    """Ask the models in turn until one answers.

    Returns:
        The one that did, what it gave, and the models before it, each with its error.

    Raises:
        EndpointError: None did; this is the last one's error.
    """
    passed: list[str] = []
    for number, candidate in enumerate(choice.candidates, 1):
        is_last = number == len(choice.candidates)
        try:
            return candidate, await ask(candidate, is_last=is_last), tuple(passed)
        except EndpointError as error:
            passed.append(f"{candidate.model.name}: {error.code}")
            if is_last:
                raise
    raise AssertionError("a choice has at least one candidate")


async def _enter(
    exits: AsyncExitStack,
    admitted: AbstractAsyncContextManager[Permit],
    model: CandidateModel,
    most_s: float | None,
) -> Permit:
    """Wait until an endpoint admits a call, for so long at most.

    Raises:
        EndpointUnavailableError: It admits none in that time.
    """
    try:
        async with asyncio.timeout(most_s):
            return await exits.enter_async_context(admitted)
    except TimeoutError:
        raise EndpointUnavailableError(
            f"{model.name} admitted no call within {most_s:g} s"
        ) from None
