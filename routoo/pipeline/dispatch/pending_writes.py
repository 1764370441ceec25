"""What the dispatch of a shard has yet to commit: writes, and calls that may not be sent before.

A call is sent only after a commit has marked it as sent. So after a crash the money of a call
without that mark is surely not spent and comes back, while that of all others counts as spent.
Calls that may start while the next commit is awaited are marked by it ahead, so that no slot waits
for one.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum, auto

from routoo.domain.completion import AnswerJudgement, Attempt, KeptAnswer, Reservation, Result
from routoo.domain.job import ResultStatus
from routoo.errors import InvalidResponseError, ValueRefusedError


class ReservationStatus(Enum):
    """How the database answered a reservation."""

    GRANTED = auto()
    RETRY_SOON = auto()
    """Not granted, but calls that are in flight may soon free money."""
    RETRY_LATER = auto()
    """Not granted; only provider batches, or shards that nobody owns now, may free money."""
    REFUSED = auto()
    """Not granted, and nothing is in flight that could free money."""
    KEPT_BACK = auto()
    """Not granted: the money is kept for the cheapest calls of other open jobs."""
    KEY_REFUSED = auto()
    """Not granted for what the batch's key may spend today; the batch's own budget covers it."""


@dataclass(slots=True)
class PendingWrites:
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

    def split(self) -> "list[PendingWrites]":
        """Return the writes in parts: two halves of the jobs, and what needs no answer.

        A job's settlements and its result stay together. What can't be divided is one part.
        """
        jobs = dict.fromkeys(one.job_no for one in self.settlements)
        jobs |= dict.fromkeys(one.job_no for one in self.results)
        jobs |= dict.fromkeys(one.job_no for one in self.judgements)
        first = set(list(jobs)[: (len(jobs) + 1) // 2])
        parts = [self._of(first), self._of(jobs.keys() - first)]
        rest = PendingWrites(
            reservations=self.reservations, releases=self.releases, marks=self.marks
        )
        parts.append(rest)
        return [part for part in parts if part.size]

    def _of(self, jobs: Collection[int]) -> "PendingWrites":
        return PendingWrites(
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

    def without_values(self, error: ValueRefusedError) -> "PendingWrites":
        """Return the writes of jobs with none of the values that came from an endpoint."""
        results = [without_answer(one, error) for one in self.results]
        # An answer that was kept for a later decision is lost, and with it its job's.
        results += [_lost_result(one.attempt, error) for one in self.undecided]
        attempts = [without_usage(one, error) for one in self.settlements]
        return PendingWrites(settlements=attempts, results=results, is_plain=True)

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


@dataclass(slots=True)
class FallbackMoney:
    """What the ledger keeps for the cheapest calls of one shard's open jobs."""

    _usd: dict[int, Decimal] | None = None
    """By job number; None where nothing is kept for the shard."""
    _over: set[int] = field(default_factory=set)
    """Jobs for which nothing is kept any more."""
    _kept_usd: Decimal | None = None
    """What the ledger keeps; None while this dispatch has not said."""

    def keep(self, usd: dict[int, Decimal]) -> None:
        """Keep these amounts from now on, by job number."""
        self._usd, self._kept_usd = usd, None
        self.forget(self._over)

    def forget(self, jobs: Iterable[int]) -> None:
        """Keep nothing for some jobs: they have ended, or their cheapest model is of no use."""
        if self._usd is None:
            return
        self._over.update(jobs)
        for job_no in jobs:
            self._usd.pop(job_no, None)

    def changed(self, ended: Sequence[Result]) -> Decimal | None:
        """Return what the ledger is to keep once some jobs have ended; None where it does."""
        self.forget([result.job_no for result in ended])
        usd = sum((self._usd or {}).values(), Decimal(0))
        return None if self._usd is None or usd == self._kept_usd else usd

    def note_kept(self, usd: Decimal) -> None:
        """Note what the ledger keeps now."""
        self._kept_usd = usd


CallKey = tuple[int, int]
"""Job number and attempt number of a call."""


@dataclass(slots=True)
class _Call:
    starts_soon: Callable[[], bool]
    marked: "asyncio.Future[None]"
    is_reserved: bool = False
    is_awaited: bool = False
    """Whether it has a slot and waits to be sent."""

    def end_wait(self, error: BaseException | None = None) -> None:
        if self.marked.done():
            return
        if error is None:
            self.marked.set_result(None)
        elif self.is_awaited:
            self.marked.set_exception(error)


@dataclass(slots=True)
class UnsentCalls:
    """The calls of one shard that are reserved, or about to be, and not marked as sent."""

    _calls: dict[CallKey, _Call] = field(default_factory=dict)

    def add(self, key: CallKey, starts_soon: Callable[[], bool]) -> None:
        """Hold a call back; `starts_soon` says whether it may start during the next commit."""
        marked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls[key] = _Call(starts_soon, marked)

    def drop(self, key: CallKey) -> None:
        """Forget a call that will not be sent."""
        self._calls.pop(key, None)

    def request(self, key: CallKey) -> "asyncio.Future[None] | None":
        """Have the next commit mark a call; None where it is marked already."""
        call = self._calls.get(key)
        if call is None:
            return None
        call.is_awaited = True
        return call.marked

    def due(self) -> list[CallKey]:
        """Return the reserved calls that the next commit shall mark."""
        return [
            key
            for key, call in self._calls.items()
            if call.is_reserved and (call.is_awaited or call.starts_soon())
        ]

    def as_sent(self, wanted: Reservation) -> Reservation:
        """Return a reservation, marked as sent if the call may start while it is committed."""
        call = self._calls.get((wanted.job_no, wanted.attempt_no))
        return wanted if call is None or call.starts_soon() else replace(wanted, sent=False)

    def note_reserved(self, reserved: Sequence[Reservation], granted: Sequence[bool]) -> None:
        """Note which reservations a commit has written; those not granted are forgotten."""
        for reservation, yes in zip(reserved, granted, strict=True):
            key = reservation.job_no, reservation.attempt_no
            if not yes:
                self.drop(key)
            elif reservation.sent:
                self.note_marked([key])
            elif key in self._calls:
                self._calls[key].is_reserved = True

    def note_marked(self, keys: Sequence[CallKey]) -> None:
        """Let calls be sent: a commit has marked them."""
        for key in keys:
            call = self._calls.pop(key, None)
            if call is not None:
                call.end_wait()

    def fail(self, error: BaseException) -> None:
        """Raise an error in all that wait for a mark."""
        for call in self._calls.values():
            call.end_wait(error)
