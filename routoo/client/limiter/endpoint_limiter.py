"""Limits the calls of this process to one endpoint: how many get ready, and how many are sent.

A call passes two stages. It is admitted when there is room: a few more calls than the endpoint has
slots; an admitted call reserves its money, which takes a commit. It starts when a slot is free and
the limits per minute allow it. So no slot waits for a commit, and a crash loses sight of little
more than the calls in flight: money is reserved only for those and the few that are ready.

Slots and rates are leased from the endpoint's shared account: `report` and `accept` are the two
halves of that exchange, which `LimitSync` makes.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import count

from routoo.client.failures import is_bad_answer
from routoo.client.limiter.account_exchange import AccountExchange, SlotUse
from routoo.client.limiter.admission import (
    CLOSED,
    WAIT_READY_S,
    AdmissionQueue,
    Closure,
    Prefetch,
    RetryBudget,
)
from routoo.client.ratelimit_headers import KnownLimit, RateLimitHeaders
from routoo.domain.absence import Absence, AbsenceReason
from routoo.errors import (
    DenialReason,
    EndpointClosedError,
    EndpointDeniedError,
    EndpointError,
    NotFoundInARowError,
    RateLimitedError,
    RequestNotFoundError,
)
from routoo.limits.account import LEASE_MARGIN_S, LEASE_S, LONGEST_PAUSE_S
from routoo.limits.records import EndpointLimits, EndpointReport, Grant

_BAD_ANSWERS = 30
"""So many answers in a row that can't be used count as an outage: a few rows may be their cause."""
_DENIALS = 10
"""So many denials in a row that give no reason count, though it answered before: a few rows may be
their cause."""
_ANSWERING_S = 30.0
"""So long after an answer an endpoint is known to answer, in seconds."""


@dataclass(slots=True, eq=False)
class WaitingCall:
    """An admitted call until it starts."""

    tokens: int
    """What it will probably take."""
    turn: "asyncio.Future[int | None] | None" = None
    """Gets the bucket that the call is counted in; None until it waits to start."""
    number: int = 0
    """Counts the calls that waited to start."""


class EndpointLimiter:
    """Admits and starts the calls of this process to one endpoint; first come, first served.

    Args:
        endpoint: The endpoint's key in the shared accounts.
        owner: This process.
        limits: What the pool file says of the endpoint; those of later calls replace them.
        wake: Called when a call begins to wait, so that a report is made when it is due.
    """

    def __init__(
        self, endpoint: str, owner: str, limits: EndpointLimits, wake: Callable[[], None]
    ) -> None:
        self._limits, self._wake = limits, wake
        self.now_s = asyncio.get_running_loop().time
        self.prefetch = Prefetch()
        self._budget = RetryBudget(limits.concurrency)
        self._queue: AdmissionQueue[EndpointLimiter] = AdmissionQueue(self._budget)
        self._ready: deque[WaitingCall] = deque()
        self._numbers = count(1)
        self._use = SlotUse()
        self._closure = Closure()
        self._exchange = AccountExchange(endpoint, owner)
        self._known_requests, self._known_tokens = KnownLimit(), KnownLimit()
        self._woken = False
        self._bad_answers = self._denials = 0
        self._answered_at_s = -math.inf
        self._doubt = ""
        """A denial that the calls in flight will show to hold for all, or not; none starts then."""
        self.is_asking = False
        """Whether the account is asked if a denial still holds."""

    @property
    def room(self) -> float:
        """How many more calls may be admitted, as a share of the slots; none where 0 or below."""
        if self._is_closed:
            return 0.0
        use = self._use
        # While the breaker is open one call is sent alone, as a probe.
        is_failing = self._closure.failing_since_s is not None
        ahead = 0 if is_failing else self.prefetch.calls(use.slots)
        return (use.slots + ahead - use.admitted - use.in_flight) / max(1, use.slots)

    @property
    def _is_closed(self) -> bool:
        return bool(self._doubt) or self._closure.is_closed(self.now_s())

    @property
    def absence(self) -> Absence | None:
        """Why the endpoint takes no calls for now; None where one may be tried."""
        if self._doubt:
            return Absence(AbsenceReason.UNAVAILABLE, 0.0, message=self._doubt)
        return self._closure.absence(self.now_s())

    @property
    def queue_s(self) -> float:
        """How long a call that comes now waits for slots and limits per minute, in seconds.

        Before it come the calls of this process that wait; those of others are not counted.
        """
        before, rate_per_s = self._use.admitted + self._queue.waiting, self._exchange.rate_per_s
        by_rate_s = before / rate_per_s if rate_per_s else 0.0
        return max(by_rate_s, before * self._exchange.slot_s)

    def look_again(self) -> None:
        """Ask the account whether a denial still holds: somebody may have ended it."""
        if self._closure.denied and self._closure.is_closed(self.now_s()):
            self.is_asking = True
            self._report_at_once()

    def expect(self, tokens: int, limits: EndpointLimits) -> None:
        """Prepare for a call that is about to wait.

        Args:
            tokens: Its estimate: rates are asked for before calls are ready, by the mean.
            limits: What the call's pool file says; the latest call's limits hold.
        """
        self._exchange.expect(tokens)
        self._limits = limits

    def may_admit(self, *, retry: bool) -> bool:
        """Return whether a call can be admitted at once."""
        return self._queue.may_skip(retry=retry) and self.room > 0

    def admit(self, *, retry: bool) -> None:
        """Admit a call; `release` must follow."""
        self._use.admitted += 1
        if retry:
            self._budget.spend()

    def enqueue(self, turn: "asyncio.Future[EndpointLimiter]", *, retry: bool) -> None:
        """Let a call wait to be admitted; its future gets the limiter that admits it."""
        self._queue.add(turn, retry=retry)
        self._request_report()

    def starts_soon(self, call: WaitingCall) -> bool:
        """Return whether a call is so far ahead that it may start during the next commit."""
        use = self._use
        if self._is_closed:
            return False
        before = call.number - self._ready[0].number if call.turn and self._ready else use.admitted
        soon = use.slots - use.in_flight + self.prefetch.during_commit(use.slots)
        if self._exchange.grants.limited:
            soon = min(soon, self._exchange.grants.calls)
        return before < max(1, soon)

    async def start(self, call: WaitingCall) -> int | None:
        """Wait until an admitted call may be sent, and take a slot for it; once per call.

        Returns:
            The bucket that the call was counted in; None where no rate limits it.

        Raises:
            EndpointClosedError: The endpoint asked for a pause or its breaker opened meanwhile.
        """
        if not self._ready:
            started, bucket_no = self._try_start(call.tokens)
            if started:
                return bucket_no
        turn: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        call.turn, call.number = turn, next(self._numbers)
        self._ready.append(call)
        self._request_report()
        try:
            return await turn
        except asyncio.CancelledError:
            if _has_result(turn):  # it got a slot in the same moment, and won't use it
                self._use.in_flight -= 1
                self._use.admitted += 1
            raise

    def _try_start(self, tokens: int) -> tuple[bool, int | None]:
        now_s, grants = self.now_s(), self._exchange.grants
        if self._is_closed or not self._use.has_free_slot(now_s):
            return False, None
        bucket_no = grants.take(tokens, now_s) if grants.limited else None
        if grants.limited and bucket_no is None:
            return False, None
        self._use.start()
        return True, bucket_no

    def release(self, *, started: bool) -> None:
        """Take back an admitted call's slot, or its admission where it never started."""
        if started:
            self._use.in_flight -= 1
        else:
            self._use.admitted -= 1
        if not self._use.in_flight:
            self._doubt = ""
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        """Start and admit as many of the waiting calls as may be."""
        while self._ready:
            call = self._ready[0]
            if call.turn is not None and not call.turn.done():
                started, bucket_no = self._try_start(call.tokens)
                if not started:
                    break
                call.turn.set_result(bucket_no)
            self._ready.popleft()
        while self._queue and self.room > 0:
            waiting = self._queue.next()
            if waiting is None:
                break
            turn, retry = waiting
            if not turn.done():
                self.admit(retry=retry)
                turn.set_result(self)

    def correct_tokens(self, bucket_no: int | None, tokens: int) -> None:
        """Note that a call took so many tokens more than was estimated for it."""
        if bucket_no is not None:
            self._exchange.grants.correct(bucket_no, 0, tokens)

    def note_answered_retry(self) -> None:
        """Give a retry's cost back to the budget: it was answered."""
        self._budget.refund()

    def note_answer(self) -> None:
        """Count an answer."""
        self._exchange.counter.answered()
        self._closure.failures_in_a_row = self._bad_answers = self._denials = 0
        self._answered_at_s, self._doubt = self.now_s(), ""

    def note_failure(self, error: EndpointError) -> EndpointError:
        """Count a failed call; close the endpoint if it asks for that, or keeps failing.

        Returns:
            What the failure is: a denial without a reason is the request's own if others are
            answered.
        """
        self._pause(error.retry_after_s or 0.0)
        if is_bad_answer(error):
            self._bad_answers += 1
            if self._bad_answers < _BAD_ANSWERS:
                return error  # it works; the requests may be what it stumbles over
        if isinstance(error, EndpointDeniedError) and error.reason is DenialReason.NO_API:
            self._denials += 1
            if self._denials < _DENIALS and self.now_s() - self._answered_at_s < _ANSWERING_S:
                meaning = RequestNotFoundError if self._denials == 1 else NotFoundInARowError
                return meaning.of(error)
            if self._denials < _DENIALS and self._use.in_flight > 1:
                self._doubt = str(error)
                return error
        self._count_failure(error)
        return error

    def _count_failure(self, error: EndpointError) -> None:
        self._exchange.counter.failed(error)
        if isinstance(error, EndpointDeniedError):
            self._doubt = ""
            self._closure.deny(str(error), self.now_s())
            self._report_at_once()
        elif not error.retryable:
            self._closure.failures_in_a_row = 0  # the request's own fault: the endpoint works
        elif not isinstance(error, RateLimitedError) and self._closure.suspect(self.now_s()):
            self._report_at_once()

    def _report_at_once(self) -> None:
        self._exchange.report_at_s = 0.0
        self._woken = True
        self._wake()

    def note_headers(self, headers: RateLimitHeaders) -> None:
        """Note the limits that an answer's headers name."""
        requests = self._known_requests.note(headers.requests)
        self._exchange.counter.note_limits(requests, self._known_tokens.note(headers.tokens))
        self._pause(headers.pause_s)

    def _pause(self, pause_s: float) -> None:
        """Start no call for so long, and report it, so that the other processes don't either."""
        if pause_s > 0:
            self._exchange.counter.note_pause(pause_s)
            self._closure.close_for(min(pause_s, LONGEST_PAUSE_S), self.now_s())
            asked_until_s = max(self._closure.asked_until_s, self.now_s() + pause_s)
            self._closure.asked_until_s = asked_until_s

    def _request_report(self) -> None:
        """Wake whoever makes the reports, once until the next report."""
        if not self._woken:
            self._woken = True
            self._wake()

    @property
    def due_at_s(self) -> float | None:
        """When to report next, by the loop's clock; None where there is nothing to report."""
        use = self._use
        busy = bool(use.admitted or use.in_flight or self._queue.waiting or self.is_asking)
        return self._exchange.due_at_s(busy=busy)

    def report(self) -> EndpointReport:
        """Return what happened since the last report, and what is wanted next."""
        now_s = self.now_s()
        elapsed_s = now_s - self._exchange.reported_at_s
        ready = [call.tokens for call in self._ready]
        report = self._exchange.report(
            self._limits,
            self._use,
            ready,
            queued=self._queue.waiting,
            call_s=self.prefetch.call_s,
            now_s=now_s,
        )
        self._budget.earn(report.counts.answered, min(1.0, elapsed_s))
        return report

    def accept(self, grant: Grant) -> None:
        """Take in what the account answered to the latest report."""
        self._use.slots = grant.slots
        self._use.expires_at_s = self._exchange.reported_at_s + LEASE_S - LEASE_MARGIN_S
        self._closure.accept(grant, self.now_s())
        if grant.is_answering:
            self._answered_at_s, self._doubt = self.now_s(), ""
        self._exchange.accept(grant)
        self._woken = self.is_asking = False
        if grant.closed_s >= WAIT_READY_S or (grant.outage_s and grant.closed_s > 0):
            self._reject_waiting()
        self._serve_waiting()

    def _reject_waiting(self) -> None:
        """End the wait of all calls, so that none waits here with money reserved.

        They may find another endpoint or model; those that come back wait to be admitted and are
        rejected at every report, so that their shard may end or their deadline pass meanwhile.
        """
        where = self._exchange.endpoint.split()[0]
        turns: list[asyncio.Future[int | None] | asyncio.Future[EndpointLimiter]] = [
            *(call.turn for call in self._ready if call.turn is not None),
            *self._queue.clear(),
        ]
        self._ready.clear()
        for turn in turns:
            if not turn.done():
                turn.set_exception(EndpointClosedError(CLOSED, where=where))


async def admit_to_any(limiters: Collection[EndpointLimiter], *, retry: bool) -> EndpointLimiter:
    """Wait until one of a model's endpoints admits a call; of several, the one with most room.

    Raises:
        EndpointClosedError: An endpoint was closed meanwhile; another one may be open.
    """
    first, *others = limiters
    roomiest = max(limiters, key=lambda limiter: limiter.room) if others else first
    if roomiest.may_admit(retry=retry):
        roomiest.admit(retry=retry)
        return roomiest
    turn: asyncio.Future[EndpointLimiter] = asyncio.get_running_loop().create_future()
    for limiter in limiters:
        limiter.enqueue(turn, retry=retry)
    try:
        return await turn
    except asyncio.CancelledError:
        if _has_result(turn):  # it was admitted in the same moment, and won't be sent
            turn.result().release(started=False)
        raise


def _has_result(turn: "asyncio.Future[int | None] | asyncio.Future[EndpointLimiter]") -> bool:
    return turn.done() and not turn.cancelled() and turn.exception() is None
