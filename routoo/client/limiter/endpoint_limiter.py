"""The queue before one endpoint: who may get ready, and who may be sent.

A call passes two doors. The first lets in a few more calls than the endpoint has places; behind it
money is reserved, which takes a commit. The second opens when a place is free and the rates allow
it. So a place never waits for a commit, and a crash hides little more than the calls in flight:
money is reserved for no more than those and the few that are ready.

Places and rates are leased from the endpoint's shared account; `report` and `accept` are the two
halves of the exchange, which a `Keeper` makes.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from routoo.client.limiter.outcome_counts import OutcomeTally
from routoo.client.limiter.prefetch import Lead
from routoo.client.limiter.rate_grants import Credit
from routoo.client.limiter.retry_budget import RetryBudget
from routoo.client.ratelimit_headers import Learned
from routoo.errors import EndpointClosedError, EndpointError, RateLimitedError
from routoo.limits.account import LEASE_S, LONGEST_PAUSE_S
from routoo.limits.breaker import FAILURES_TO_OPEN
from routoo.limits.records import Caps, Grant, Report

_MEAN_WEIGHT = 0.05
_IDLE_S = 2.0
"""Places that nobody needs are given back after so long, in seconds."""
_WAIT_INSIDE_S = 1.0
"""Calls that are ready wait out a shorter pause where they are, in seconds."""
_CLOSED = "the endpoint asked for a pause or keeps failing, and is left alone for the moment"
_SUSPECTED_S = 0.001
_SUSPECT_FOR_S = 1.0
"""Calls that failed in a row close the gate for this long, or until the account has its say."""
_START_AHEAD = 2
"""Calls asked leave for, as a multiple of those started since the last report."""


@dataclass(slots=True)
class _Waiting:
    turn: "asyncio.Future[int | None]"
    tokens: int


class Gate:
    """The calls of this process to one endpoint; first come, first served.

    Args:
        endpoint: The endpoint's key in the shared accounts.
        owner: This process.
        caps: What the pool says of the endpoint.
        wake: Called when a call begins to wait.
    """

    def __init__(self, endpoint: str, owner: str, caps: Caps, wake: Callable[[], None]) -> None:
        self._endpoint, self._owner, self.caps, self._wake = endpoint, owner, caps, wake
        self.now_s = asyncio.get_running_loop().time
        self._failed_in_a_row = 0
        self._places = self._near = self._in_flight = self._started = 0
        self._mean_tokens = 0.0
        self._outside: deque[asyncio.Future[Gate]] = deque()
        self._retries: deque[asyncio.Future[Gate]] = deque()
        self._ready: deque[_Waiting] = deque()
        self._credit = Credit()
        self.lead = Lead()
        self._budget = RetryBudget(caps.concurrency)
        self._tally = OutcomeTally()
        self._expires_at_s = self._open_at_s = self._ask_at_s = self._asked_at_s = 0.0
        self._outage_s = 0.0
        self._seated = self._called = False
        self._wanted: tuple[int, ...] = ()

    # Doors

    @property
    def room(self) -> float:
        """How many more calls may get ready, as a share of the places; none where 0 or below."""
        if self._is_closed:
            return 0.0
        # A breaker's probe goes alone.
        ahead = 0 if self._outage_s else self.lead.calls(self._places)
        return (self._places + ahead - self._near - self._in_flight) / max(1, self._places)

    @property
    def _is_closed(self) -> bool:
        return self._open_at_s > 0.0 and self.now_s() < self._open_at_s

    @property
    def outage_s(self) -> float:
        """How long the endpoint has kept failing; 0 while it works, or while a call may try."""
        return self._outage_s if self._is_closed else 0.0

    def expect(self, tokens: int) -> None:
        """Learn what calls take, to ask leave for those that are not ready yet."""
        weight = _MEAN_WEIGHT if self._mean_tokens else 1.0
        self._mean_tokens += (tokens - self._mean_tokens) * weight

    def may_enter(self, *, retry: bool) -> bool:
        """Return whether a call may pass the first door at once."""
        if retry:
            return not self._retries and self._budget.suffices and self.room > 0
        return not self._outside and self.room > 0

    def enter(self, *, retry: bool) -> None:
        """Pass the first door."""
        self._near += 1
        if retry:
            self._budget.spend()

    def queue(self, turn: "asyncio.Future[Gate]", *, retry: bool) -> None:
        """Wait outside: the future gets the gate that let the call in."""
        (self._retries if retry else self._outside).append(turn)
        self._call()

    async def start(self, tokens: int) -> int | None:
        """Wait for a place and for the rates, and take them; a call that was let in, once.

        Returns:
            The bucket that the call was counted in; None where no rate limits it.

        Raises:
            EndpointClosedError: The breaker opened meanwhile.
        """
        if not self._ready:
            taken, bucket_no = self._take(tokens)
            if taken:
                return bucket_no
        waiting = _Waiting(asyncio.get_running_loop().create_future(), tokens)
        self._ready.append(waiting)
        self._call()
        try:
            return await waiting.turn
        except asyncio.CancelledError:
            turn = waiting.turn
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._in_flight, self._near = self._in_flight - 1, self._near + 1
            raise

    def _take(self, tokens: int) -> tuple[bool, int | None]:
        now_s = self.now_s()
        if self._in_flight >= self._places or not self._open_at_s <= now_s < self._expires_at_s:
            return False, None
        bucket_no = self._credit.take(tokens, now_s) if self._credit.limited else None
        if self._credit.limited and bucket_no is None:
            return False, None
        self._near, self._in_flight, self._started = (
            self._near - 1, self._in_flight + 1, self._started + 1,
        )  # fmt: skip
        return True, bucket_no

    def leave(self, *, started: bool) -> None:
        """Go, with the answer or without having been sent."""
        if started:
            self._in_flight -= 1
        else:
            self._near -= 1
        self._admit()

    def correct(self, bucket_no: int | None, tokens: int) -> None:
        """Note that a call took so many tokens more than was estimated."""
        if bucket_no is not None:
            self._credit.correct(bucket_no, 0, tokens)

    def repay(self) -> None:
        """Note that a retry was answered."""
        self._budget.repay()

    def answered(self) -> None:
        """Note an answer."""
        self._tally.answered()
        self._failed_in_a_row = 0

    def failed(self, error: EndpointError) -> None:
        """Note a failed call."""
        self._tally.failed(error)
        self.pause(error.retry_after_s or 0.0)
        if not error.retryable:
            self._failed_in_a_row = 0  # the request's own fault: the endpoint works
        elif not isinstance(error, RateLimitedError):
            self._failed_in_a_row += 1
            self._suspect()

    def _suspect(self) -> None:
        if self._failed_in_a_row >= FAILURES_TO_OPEN:
            # The account's breaker opens with the next report; jobs would use up their attempts.
            self._outage_s = self._outage_s or _SUSPECTED_S
            self._open_at_s = max(self._open_at_s, self.now_s() + _SUSPECT_FOR_S)
            self._ask_at_s = 0.0
            self._called = True
            self._wake()

    def learn(self, learned: Learned) -> None:
        """Note what the endpoint's headers say."""
        self._tally.learn(learned.requests_per_minute, learned.tokens_per_minute)
        self.pause(learned.pause_s)

    def pause(self, pause_s: float) -> None:
        """Start nothing for so long, and soon tell the other processes."""
        if pause_s > 0:
            self._tally.pause(pause_s)
            pause_s = min(pause_s, LONGEST_PAUSE_S)
            self._open_at_s = max(self._open_at_s, self.now_s() + pause_s)

    def _call(self) -> None:
        """Have the keeper look when the next report is due; once is enough."""
        if not self._called:
            self._called = True
            self._wake()

    def _admit(self) -> None:
        while self._ready:
            head = self._ready[0]
            if not head.turn.done():
                taken, bucket_no = self._take(head.tokens)
                if not taken:
                    break
                head.turn.set_result(bucket_no)
            self._ready.popleft()
        while self._retries and self._budget.suffices and self.room > 0:
            self._let_in(self._retries.popleft(), retry=True)
        while self._outside and self.room > 0:
            self._let_in(self._outside.popleft(), retry=False)

    def _let_in(self, turn: "asyncio.Future[Gate]", *, retry: bool) -> None:
        if not turn.done():
            self.enter(retry=retry)
            turn.set_result(self)

    # The exchange with the shared account

    @property
    def due_at_s(self) -> float | None:
        """When to report next, by the loop's clock; None where there is nothing to report."""
        if self._busy:
            return self._ask_at_s
        return self._asked_at_s + _IDLE_S if self._seated else None

    @property
    def _busy(self) -> bool:
        return bool(self._near or self._in_flight or self._outside or self._retries)

    def report(self) -> Report:
        """Return what happened since the last report, and what is wanted next."""
        now_s = self.now_s()
        outcomes = self._tally.take()
        self._budget.earn(outcomes.answered, min(1.0, now_s - self._asked_at_s))
        self._asked_at_s = now_s
        waiting = self._near + len(self._outside) + len(self._retries)
        self._wanted = self._wanted_tokens(waiting)
        return Report(
            self._endpoint, self._owner, self.caps,
            in_flight=self._in_flight, waiting=waiting, wanted_tokens=self._wanted,
            corrections=self._credit.corrections(now_s), outcomes=outcomes,
        )  # fmt: skip

    def _wanted_tokens(self, waiting: int) -> tuple[int, ...]:
        free = max(0, (self._places or self.caps.concurrency) - self._in_flight)
        count = min(waiting, _START_AHEAD * self._started + free)
        # Leave in hand counts, unless it is too small for the call at the head.
        count -= 0 if self._ready and self._in_flight < self._places else self._credit.calls
        self._started = 0
        known = [waiting.tokens for waiting in self._ready]
        known += [round(self._mean_tokens)] * (count - len(known))
        return tuple(known[: max(0, count)])

    def accept(self, grant: Grant) -> None:
        """Take in what the account said to the latest report."""
        asked_at_s, self._places = self._asked_at_s, grant.places
        self._expires_at_s = asked_at_s + LEASE_S
        self._open_at_s = self.now_s() + grant.closed_s if grant.closed_s > 0 else 0.0
        self._ask_at_s = asked_at_s + grant.ask_again_s
        self._seated, self._called = grant.places > 0, False
        self._credit.accept(grant, self._wanted, asked_at_s)
        self._outage_s = grant.outage_s
        if grant.closed_s >= _WAIT_INSIDE_S or (grant.outage_s and grant.closed_s > 0):
            self._send_away()
        self._admit()

    def _send_away(self) -> None:
        """Let nobody wait here with money set aside.

        They may find another endpoint or model, and else come back and wait outside, looking up at
        every report: their shard may close and their deadline pass meanwhile.
        """
        turns: list[asyncio.Future[int | None] | asyncio.Future[Gate]] = [
            *(waiting.turn for waiting in self._ready), *self._outside, *self._retries,
        ]  # fmt: skip
        for queue in (self._ready, self._outside, self._retries):
            queue.clear()
        for turn in turns:
            if not turn.done():
                turn.set_exception(EndpointClosedError(_CLOSED, where=self._endpoint.split()[0]))
