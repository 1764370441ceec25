"""Commits reservations, settlements and results in groups: many calls in few transactions.

No call is sent before its worst case is reserved in a committed transaction, and a call's cost is
committed together with its job's result. So the ledger is right whenever a process crashes.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum, auto
from types import TracebackType
from typing import Self

import structlog
from psycopg import AsyncConnection

from routoo.domain.answer import AnswerJudgement
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import Attempt, KeptAnswer, Reservation, Result
from routoo.domain.job import Lease, ResultStatus
from routoo.errors import (
    DatabaseUnavailableError,
    InvalidResponseError,
    StoreError,
    ValueRefusedError,
)
from routoo.pipeline.dispatch.pending_writes import UnsentCalls
from routoo.pipeline.dispatch.response_cache import ShardCache
from routoo.store import (
    budget,
    endpoint_behaviour,
    kept_answers,
    leases,
    ledger,
    response_cache,
    results,
)
from routoo.store.database import Database

_LINGER_S = 0.005
"""How long a flush waits for more writes, in seconds; so a transaction has hundreds of rows."""
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 2.0
_log = structlog.get_logger(__name__)


class ReservationStatus(Enum):
    """How the database answered a reservation."""

    GRANTED = auto()
    RETRY_SOON = auto()
    """Not granted, but calls that are in flight may soon free money."""
    RETRY_LATER = auto()
    """Not granted; only provider batches, or shards that nobody owns now, may free money."""
    REFUSED = auto()
    """Not granted, and nothing is in flight that could free money."""


@dataclass(slots=True)
class _Writes:
    """The writes that wait for the next flush."""

    reservations: list[tuple[Reservation, asyncio.Future[ReservationStatus]]] = field(
        default_factory=list
    )
    """Each with the future that its caller awaits."""
    releases: list[tuple[int, int]] = field(default_factory=list)
    """Job number and attempt number of calls that were not sent."""
    marks: list[tuple[int, int]] = field(default_factory=list)
    """Job number and attempt number of reserved calls that may be sent now."""
    settlements: list[Attempt] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    kept: list[KeptAnswer] = field(default_factory=list)
    judgements: list[AnswerJudgement] = field(default_factory=list)
    is_plain: bool = False
    """Whether they hold none of the values that came from an endpoint."""

    def split(self) -> "list[_Writes]":
        """Return the writes in parts: two halves of the jobs, and what needs no answer.

        A job's settlements and its result stay together. What can't be divided is one part.
        """
        jobs = dict.fromkeys(one.job_no for one in self.settlements)
        jobs |= dict.fromkeys(one.job_no for one in self.results)
        jobs |= dict.fromkeys(one.job_no for one in self.judgements)
        first = set(list(jobs)[: (len(jobs) + 1) // 2])
        parts = [self._of(first), self._of(jobs.keys() - first)]
        rest = _Writes(reservations=self.reservations, releases=self.releases, marks=self.marks)
        parts.append(rest)
        return [part for part in parts if part.size]

    def _of(self, jobs: Collection[int]) -> "_Writes":
        return _Writes(
            settlements=[one for one in self.settlements if one.job_no in jobs],
            results=[one for one in self.results if one.job_no in jobs],
            kept=[one for one in self.kept if one.attempt.job_no in jobs],
            judgements=[one for one in self.judgements if one.job_no in jobs],
        )

    @property
    def undecided(self) -> list[KeptAnswer]:
        """The kept answers whose jobs get no result at once."""
        ended = {result.job_no for result in self.results}
        return [one for one in self.kept if one.attempt.job_no not in ended]

    @property
    def size(self) -> int:
        """How many writes there are."""
        ended = len(self.settlements) + len(self.results) + len(self.kept) + len(self.judgements)
        return ended + len(self.reservations) + len(self.releases) + len(self.marks)

    def without_values(self, error: ValueRefusedError) -> "_Writes":
        """Return the writes of jobs with none of the values that came from an endpoint."""
        results = [without_answer(one, error) for one in self.results]
        # An answer that was kept for a later decision is lost, and with it its job's.
        results += [_lost_result(one.attempt, error) for one in self.undecided]
        attempts = [without_usage(one, error) for one in self.settlements]
        return _Writes(settlements=attempts, results=results, is_plain=True)

    def succeed(self, statuses: Sequence[ReservationStatus]) -> None:
        """Give every reservation's caller its status."""
        for (_, future), status in zip(self.reservations, statuses, strict=True):
            if not future.done():
                future.set_result(status)

    def fail(self, error: BaseException) -> None:
        """Raise an error in every reservation's caller."""
        for _, future in self.reservations:
            if not future.done():
                future.set_exception(error)


def without_usage(attempt: Attempt, error: ValueRefusedError) -> Attempt:
    """Return a call's record without the values of its answer, one of which can't be stored."""
    return replace(
        attempt,
        status="failed",
        usage=None,
        error_code=InvalidResponseError.code,
        error_message=f"the answer can't be stored: {error.what}",
    )


def without_answer(result: Result, error: ValueRefusedError) -> Result:
    """Return a job's result as a failure, because a value of its answer can't be stored."""
    return replace(
        result,
        status=ResultStatus.FAILED,
        completion=None,
        error_code=InvalidResponseError.code,
        error_message=f"the answer can't be stored: {error.what}",
    )


def _lost_result(attempt: Attempt, error: ValueRefusedError) -> Result:
    number, cost_usd = attempt.attempt_no, attempt.cost_usd
    lost = Result(attempt.job_no, ResultStatus.FAILED, cost_usd, number, attempt.model)
    return without_answer(lost, error)


class GroupCommit:
    """Writes the reservations, settlements and results of one leased shard.

    An async context manager. A reservation is awaited until it is committed. Settlements and
    results are committed a few milliseconds after they were handed in, and all of them by the end
    of the context. After a failed flush every method raises its error.

    Args:
        db: The store.
        lease: The shard; its epoch fences every flush.
        cache: Where answers are kept for later batches; None keeps none.
        alone: True if the batch has no duplicates, that is no jobs that share another's answer.
        behaviour: What is known of endpoints: what this process found is saved with the call that
            showed it, and what others found is read with each flush. So no call that is reserved
            after another was billed above its bound is sent at the old one.
        patience_s: How long to retry while the database can't be reached, in seconds.

    Raises:
        StaleLeaseError: From any method, and at the end: another worker owns the shard.
        StoreError: From any method, and at the end: the database failed or can't be reached.
    """

    def __init__(
        self,
        db: Database,
        lease: Lease,
        *,
        cache: ShardCache | None = None,
        alone: bool = False,
        behaviour: KnownBehaviour | None = None,
        patience_s: float = 30.0,
    ) -> None:
        self._db, self._lease, self._cache = db, lease, cache
        self._alone, self._patience_s = alone, patience_s
        self._behaviour = KnownBehaviour() if behaviour is None else behaviour
        self._waiting = _Writes()
        self._has_writes = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._unsent = UnsentCalls()

    async def __aenter__(self) -> Self:
        self._flusher = asyncio.create_task(self._flush_for_ever())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self._flush()
                self._check()
        finally:
            if self._flusher is not None:
                self._flusher.cancel()
                await asyncio.gather(self._flusher, return_exceptions=True)

    async def reserve(
        self, reservation: Reservation, starts_soon: Callable[[], bool] | None = None
    ) -> ReservationStatus:
        """Reserve the worst case of a call in the ledger, and return the committed status.

        Args:
            reservation: The call.
            starts_soon: Whether it may start during the next commit, which then allows it to be
                sent; such calls count as sent if the process is lost. None allows it at once.
        """
        self._check()
        key = reservation.job_no, reservation.attempt_no
        # A call that is tried again has its old number: first its old reservation must be freed.
        while key in self._waiting.releases:
            await asyncio.sleep(_LINGER_S)
            self._check()
        if starts_soon is not None:
            self._unsent.add(key, starts_soon)
        future: asyncio.Future[ReservationStatus] = asyncio.get_running_loop().create_future()
        self._waiting.reservations.append((reservation, future))
        self._has_writes.set()
        return await future

    async def allow_sending(self, job_no: int, attempt_no: int) -> None:
        """Wait until a commit has marked a reserved call as sent; send it only after that."""
        self._check()
        marked = self._unsent.request((job_no, attempt_no))
        if marked is not None:
            self._has_writes.set()
            await marked

    async def free_usd(self) -> Decimal | None:
        """Return what may still be reserved now; None without a budget."""
        async with self._db.transaction() as conn:
            return (await ledger.balance(conn, self._lease.key.batch_id)).free_usd

    def release(self, job_no: int, attempt_no: int) -> None:
        """Free the reservation of a call that was not sent."""
        self._waiting.releases.append((job_no, attempt_no))
        self._unsent.drop((job_no, attempt_no))
        self._has_writes.set()

    def settle(self, attempt: Attempt, result: Result | None = None) -> None:
        """Replace a call's reservation by its cost, and record its job's result if there is one."""
        self._check()
        self._waiting.settlements.append(attempt)
        if result is not None:
            self._waiting.results.append(result)
        self._has_writes.set()

    def record(self, result: Result) -> None:
        """Record the result of a job that ends without a further call."""
        self._check()
        self._waiting.results.append(result)
        self._has_writes.set()

    def keep(self, kept: KeptAnswer) -> None:
        """Keep an answer whose call is settled now; not if its job's result is written with it."""
        self._check()
        self._waiting.kept.append(kept)
        self._has_writes.set()

    def note(self, judgement: AnswerJudgement) -> None:
        """Record what was decided about an answer."""
        self._check()
        self._waiting.judgements.append(judgement)
        self._has_writes.set()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _flush_for_ever(self) -> None:
        while True:
            await self._has_writes.wait()
            await asyncio.sleep(_LINGER_S)
            await self._flush()

    async def _flush(self) -> None:
        async with self._flushing:
            writes, self._waiting = self._waiting, _Writes()
            self._has_writes.clear()
            writes.marks = self._unsent.due()
            writes.reservations = [
                (self._unsent.as_sent(one), future) for one, future in writes.reservations
            ]
            try:
                self._check()
                statuses = await self._commit_patiently(writes)
            except BaseException as error:
                self._error = error
                writes.fail(error)
                self._unsent.fail(error)
                if not isinstance(error, StoreError):
                    raise
                return
            granted = [one is ReservationStatus.GRANTED for one in statuses]
            self._unsent.note_reserved([one for one, _ in writes.reservations], granted)
            self._unsent.note_marked(writes.marks)
            writes.succeed(statuses)

    async def _commit_patiently(self, writes: _Writes) -> Sequence[ReservationStatus]:
        """Commit; retry while the database can't be reached, since the answers are paid for."""
        delay_s, waited_s = _FIRST_RETRY_S, 0.0
        while True:
            try:
                return await self._commit(writes)
            except ValueRefusedError as error:
                return await self._commit_apart(writes, error)
            except DatabaseUnavailableError:
                if waited_s >= self._patience_s:
                    raise
                await asyncio.sleep(delay_s)
                waited_s, delay_s = waited_s + delay_s, min(delay_s * 2, _LONGEST_RETRY_S)

    async def _commit_apart(
        self, writes: _Writes, error: ValueRefusedError
    ) -> list[ReservationStatus]:
        """Commit writes in parts, since one of them was refused: only its own job fails for it."""
        parts = writes.split()
        if len(parts) > 1:
            return [one for part in parts for one in await self._commit_patiently(part)]
        if writes.is_plain or not (writes.settlements or writes.results or writes.judgements):
            raise error  # it was refused for nothing that came from an endpoint
        plain = writes.without_values(error)
        _log.warning("dispatch.value_refused", reason=error.what)
        return list(await self._commit_patiently(plain))

    async def _commit(self, writes: _Writes) -> Sequence[ReservationStatus]:
        lease, wanted = self._lease, [reservation for reservation, _ in writes.reservations]
        unsaved = dict(self._behaviour.unsaved)
        async with self._db.transaction(pipelined=True) as conn:
            async with conn.pipeline():  # one round trip for the whole flush
                proof = await leases.ask_fence(conn, lease)
                # Settlements come first: the money that they free may cover these reservations.
                if writes.settlements:
                    await ledger.settle(conn, lease, writes.settlements, fenced=True)
                if kept := writes.undecided:
                    await kept_answers.save(conn, lease, kept)
                if writes.judgements:
                    await kept_answers.save_judgements(conn, lease, writes.judgements)
                if writes.results:
                    await results.save(conn, lease, writes.results, fenced=True, alone=self._alone)
                reserved = await ledger.reserve_all(conn, lease, wanted) if wanted else None
                if writes.marks:
                    await ledger.mark_sent(conn, lease, writes.marks)
                if unsaved:
                    await endpoint_behaviour.save(conn, unsaved)
                found = await endpoint_behaviour.ask(conn)
            leases.check_fence(proof, lease)
            if self._cache is not None and (new := self._cache.answers(writes.results)):
                await response_cache.keep(conn, new, self._cache.ttl_s)
            statuses = [ReservationStatus.GRANTED] * len(wanted)
            if reserved is not None and reserved.rowcount == 0:
                statuses = await self._reserve_singly(conn, wanted)
            if writes.releases:  # last: this flush may hold a cancelled call's reservation
                await ledger.release(conn, lease, writes.releases, fenced=True)
            known = await endpoint_behaviour.read(found)
        self._behaviour.update(known)
        self._behaviour.saved(unsaved)
        return statuses

    async def _reserve_singly(
        self, conn: AsyncConnection, wanted: Sequence[Reservation]
    ) -> list[ReservationStatus]:
        """Grant those reservations that the budget still covers, since it doesn't cover all."""
        granted = await ledger.reserve(conn, self._lease, wanted, fenced=True)
        balance = await ledger.balance(conn, self._lease.key.batch_id)
        refusal = ReservationStatus.REFUSED
        if balance.reserved_usd > 0:
            waits = await budget.may_give_back(conn, self._lease.key.batch_id)
            refusal = ReservationStatus.RETRY_SOON if waits else ReservationStatus.RETRY_LATER
        return [ReservationStatus.GRANTED if yes else refusal for yes in granted]
