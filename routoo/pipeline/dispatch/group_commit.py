"""Group commit of money and results: many calls in flight, few transactions.

No call is sent before its worst case is reserved in a committed transaction, and every outcome is
settled together with its result, so that a crash at any moment leaves books that add up.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Self

from psycopg import AsyncConnection

from routoo.domain.completion import Attempt, Reservation, Result
from routoo.domain.job import Lease
from routoo.errors import DatabaseUnavailableError, StoreError
from routoo.pipeline.dispatch.response_cache import ShardCache
from routoo.store import budget, leases, ledger, response_cache, results
from routoo.store.database import Database

LINGER_S = 0.005
"""How long a flush waits for company: a few milliseconds buy hundreds of rows a transaction."""
_FIRST_RETRY_S = 0.1


class Grant(Enum):
    """Answer to a reservation."""

    GRANTED = auto()
    WAIT = auto()
    """Refused for now: calls in flight may give money back."""
    LATER = auto()
    """Refused for longer: providers, or owners of shards that are to come, may give money back."""
    REFUSED = auto()
    """Refused for good: nothing is in flight that could give money back."""


@dataclass(slots=True)
class _Page:
    """What waits for the next flush; a reservation with the future of its author."""

    reservations: list[tuple[Reservation, asyncio.Future[Grant]]] = field(default_factory=list)
    releases: list[tuple[int, int]] = field(default_factory=list)
    settlements: list[Attempt] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    def succeed(self, grants: Sequence[Grant]) -> None:
        """Answer every reservation of the page."""
        for (_, future), grant in zip(self.reservations, grants, strict=True):
            if not future.done():
                future.set_result(grant)

    def fail(self, error: BaseException) -> None:
        """Raise the error at every reservation of the page."""
        for _, future in self.reservations:
            if not future.done():
                future.set_exception(error)


class Books:
    """The money and results of one leased shard; an async context manager.

    Reservations are awaited: no call goes out before its money is set aside. What calls cost and
    brought is written soon after it is told, and all of it by the end of the context. Once a flush
    has failed nothing more is taken.

    Args:
        db: The store.
        lease: The shard; every flush is fenced by it.
        cache: Keeps answers for later batches; None where that is not wanted.
        alone: No job of the batch shares another's answer.
        patience_s: How long a database that is away is waited for, in seconds.

    Raises:
        StaleLeaseError: From any method and at the end: another worker owns the shard.
        StoreError: From any method and at the end: the database could not do it.
    """

    def __init__(
        self,
        db: Database,
        lease: Lease,
        *,
        cache: ShardCache | None = None,
        alone: bool = False,
        patience_s: float = 30.0,
    ) -> None:
        self._db, self._lease, self._cache = db, lease, cache
        self._alone, self._patience_s = alone, patience_s
        self._page = _Page()
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

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

    async def reserve(self, reservation: Reservation) -> Grant:
        """Set the worst case of a call aside, or say why not."""
        self._check()
        future: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self._page.reservations.append((reservation, future))
        self._wake.set()
        return await future

    def release(self, job_no: int, attempt_no: int) -> None:
        """Give back what was set aside for a call that was never sent."""
        self._page.releases.append((job_no, attempt_no))
        self._wake.set()

    def settle(self, attempt: Attempt, result: Result | None = None) -> None:
        """Replace a call's reservation by its cost, and record its job's result if it has one."""
        self._check()
        self._page.settlements.append(attempt)
        if result is not None:
            self._page.results.append(result)
        self._wake.set()

    def record(self, result: Result) -> None:
        """Record the result of a job that needed no further call."""
        self._check()
        self._page.results.append(result)
        self._wake.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _flush_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(LINGER_S)
            await self._flush()

    async def _flush(self) -> None:
        async with self._flushing:
            page, self._page = self._page, _Page()
            self._wake.clear()
            try:
                self._check()
                page.succeed(await self._commit_patiently(page))
            except StoreError as error:
                self._failure = error
                page.fail(error)
            except BaseException as error:
                self._failure = error
                page.fail(error)
                raise

    async def _commit_patiently(self, page: _Page) -> Sequence[Grant]:
        """Commit, waiting for a database that is away: the answers in hand were paid for."""
        delay_s, waited_s = _FIRST_RETRY_S, 0.0
        while True:
            try:
                return await self._commit(page)
            except DatabaseUnavailableError:
                if waited_s >= self._patience_s:
                    raise
                await asyncio.sleep(delay_s)
                waited_s, delay_s = waited_s + delay_s, min(delay_s * 2, 2.0)

    async def _commit(self, page: _Page) -> Sequence[Grant]:
        lease, wanted = self._lease, [reservation for reservation, _ in page.reservations]
        async with self._db.transaction(pipelined=True) as conn:
            async with conn.pipeline():  # a page is one round trip
                proof = await leases.ask_fence(conn, lease)
                # Settled first: the money that comes back may cover this page's reservations.
                if page.settlements:
                    await ledger.settle(conn, lease, page.settlements, fenced=True)
                if page.results:
                    await results.save(conn, lease, page.results, fenced=True, alone=self._alone)
                reserved = await ledger.reserve_all(conn, lease, wanted) if wanted else None
            leases.check_fence(proof, lease)
            if self._cache is not None and (kept := self._cache.answers(page.results)):
                await response_cache.keep(conn, kept, self._cache.ttl_s)
            grants = [Grant.GRANTED] * len(wanted)
            if reserved is not None and reserved.rowcount == 0:
                grants = await self._reserve(conn, wanted)
            if page.releases:  # last: the cancelled author's reservation may stand on this page
                await ledger.release(conn, lease, page.releases, fenced=True)
            return grants

    async def _reserve(self, conn: AsyncConnection, wanted: Sequence[Reservation]) -> list[Grant]:
        granted = await ledger.reserve(conn, self._lease, wanted, fenced=True)
        balance = await ledger.balance(conn, self._lease.key.batch_id)
        refusal = Grant.REFUSED
        if balance.reserved_usd > 0:
            waits = await budget.may_give_back(conn, self._lease.key.batch_id)
            refusal = Grant.WAIT if waits else Grant.LATER
        return [Grant.GRANTED if yes else refusal for yes in granted]
