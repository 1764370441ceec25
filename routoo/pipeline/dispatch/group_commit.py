"""Commits reservations, settlements and results in groups: many calls in few transactions.

No call is sent before its worst case is reserved in a committed transaction, and a call's cost is
committed together with its job's result. So the ledger is right whenever a process crashes.
"""

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal
from types import TracebackType
from typing import Self

import structlog
from psycopg import AsyncConnection

from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import AnswerJudgement, Attempt, KeptAnswer, Reservation, Result
from routoo.domain.job import Lease
from routoo.errors import (
    DatabaseUnavailableError,
    StoreError,
    ValueRefusedError,
)
from routoo.pipeline.dispatch.pending_writes import (
    FallbackMoney,
    PendingWrites,
    ReservationStatus,
    UnsentCalls,
)
from routoo.pipeline.dispatch.response_cache import ShardCache
from routoo.store import budget, endpoints, kept_answers, leases, ledger, response_cache, results
from routoo.store.database import Database

_LINGER_S = 0.005
"""How long a flush waits for more writes, in seconds; so a transaction has hundreds of rows."""
_FIRST_RETRY_S = 0.1
_LONGEST_RETRY_S = 2.0
_PATIENCE_S = 30.0
"""How long to retry while the database can't be reached."""
_log = structlog.get_logger(__name__)


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
    ) -> None:
        self._db, self._lease, self._cache = db, lease, cache
        self._alone = alone
        self._behaviour = KnownBehaviour() if behaviour is None else behaviour
        self._waiting = PendingWrites()
        self._has_writes = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._unsent = UnsentCalls()
        self._fallback = FallbackMoney()

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

    def keep_fallback(self, usd: dict[int, Decimal]) -> None:
        """Keep money of the budget for the cheapest call of each open job, by its number."""
        self._fallback.keep(usd)
        self._has_writes.set()

    def forget_fallback(self, job_no: int) -> None:
        """Keep no money for a job any more: it has an answer, or its cheapest model gave none."""
        self._fallback.forget([job_no])

    async def free_usd(self, *, last_resort: bool) -> Decimal | None:
        """Return what a call may still reserve now; None without a budget."""
        async with self._db.transaction() as conn:
            found = await ledger.balance(conn, self._lease.key.batch_id)
        if found.free_usd is None or last_resort:
            return found.free_usd
        return max(found.free_usd - found.fallback_usd, Decimal(0))

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
            writes, self._waiting = self._waiting, PendingWrites()
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

    async def _commit_patiently(self, writes: PendingWrites) -> Sequence[ReservationStatus]:
        """Commit; retry while the database can't be reached, since the answers are paid for."""
        delay_s, waited_s = _FIRST_RETRY_S, 0.0
        while True:
            try:
                return await self._commit(writes)
            except ValueRefusedError as error:
                return await self._commit_apart(writes, error)
            except DatabaseUnavailableError:
                if waited_s >= _PATIENCE_S:
                    raise
                await asyncio.sleep(delay_s)
                waited_s, delay_s = waited_s + delay_s, min(delay_s * 2, _LONGEST_RETRY_S)

    async def _commit_apart(
        self, writes: PendingWrites, error: ValueRefusedError
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

    async def _commit(self, writes: PendingWrites) -> Sequence[ReservationStatus]:
        lease, wanted = self._lease, [reservation for reservation, _ in writes.reservations]
        unsaved, fallback_usd = (
            dict(self._behaviour.unsaved),
            self._fallback.changed(writes.results),
        )
        async with self._db.transaction(pipelined=True) as conn:
            async with conn.pipeline():  # one round trip for the whole flush
                proof = await leases.ask_fence(conn, lease)
                # Settlements come first: the money that they free may cover these reservations.
                await self._write_ended(conn, writes, fallback_usd)
                reserved = await ledger.reserve_all(conn, lease, wanted) if wanted else None
                if writes.marks:
                    await ledger.mark_sent(conn, lease, writes.marks)
                if unsaved:
                    await endpoints.save_behaviour(conn, unsaved)
                found = await endpoints.ask_behaviour(conn)
            leases.check_fence(proof, lease)
            if self._cache is not None and (new := self._cache.answers(writes.results)):
                await response_cache.keep(conn, new, self._cache.ttl_s)
            statuses = [ReservationStatus.GRANTED] * len(wanted)
            if reserved is not None and reserved.rowcount == 0:
                statuses = await self._reserve_singly(conn, wanted)
            if writes.releases:  # last: this flush may hold a cancelled call's reservation
                await ledger.release(conn, lease, writes.releases, fenced=True)
            known = await endpoints.read_behaviour(found)
        if fallback_usd is not None:
            self._fallback.note_kept(fallback_usd)
        self._behaviour.update(known)
        self._behaviour.saved(unsaved)
        return statuses

    async def _write_ended(
        self, conn: AsyncConnection, writes: PendingWrites, fallback_usd: Decimal | None
    ) -> None:
        """Write what ended, and what the ledger keeps for the cheapest calls from now on."""
        if fallback_usd is not None:
            await budget.keep_fallback(conn, self._lease, fallback_usd)
        if writes.settlements:
            await ledger.settle(conn, self._lease, writes.settlements, fenced=True)
        if kept := writes.undecided:
            await kept_answers.save(conn, self._lease, kept)
        if writes.judgements:
            await kept_answers.save_judgements(conn, self._lease, writes.judgements)
        if writes.results:
            await results.save(conn, self._lease, writes.results, fenced=True, alone=self._alone)

    async def _reserve_singly(
        self, conn: AsyncConnection, wanted: Sequence[Reservation]
    ) -> list[ReservationStatus]:
        """Grant those reservations that the budget still covers, since it doesn't cover all."""
        granted = await ledger.reserve(conn, self._lease, wanted, fenced=True)
        balance = await ledger.balance(conn, self._lease.key.batch_id)
        refusal, free_usd = ReservationStatus.REFUSED, balance.free_usd
        if balance.reserved_usd > 0:
            waits = await budget.may_give_back(conn, self._lease.key.batch_id)
            refusal = ReservationStatus.RETRY_SOON if waits else ReservationStatus.RETRY_LATER
        elif all(free_usd is None or one.worst_case_usd <= free_usd for one in wanted):
            refusal = ReservationStatus.KEY_REFUSED
        kept_back = ReservationStatus.KEPT_BACK
        return [
            ReservationStatus.GRANTED if yes else kept_back if balance.keeps_from(one) else refusal
            for one, yes in zip(wanted, granted, strict=True)
        ]
