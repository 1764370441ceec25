"""Exchanges reports on calls for grants, with the accounts that processes share.

`AccountExchange` prepares the reports of one endpoint's limiter and keeps the grants that it gets;
`LimitSync` makes the exchange for all limiters of the process.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from routoo.client.ratelimit_headers import PeriodLimit
from routoo.errors import (
    EndpointDeniedError,
    EndpointError,
    EndpointUnavailableError,
    RateLimitedError,
    StoreError,
)
from routoo.limits.records import CallCounts, Correction, EndpointLimits, EndpointReport, Grant
from routoo.limits.sliding_window import USE_WITHIN_S
from routoo.ports import SharedLimits

_NO_CALLS = CallCounts()
_BUG = 500
"""HTTP status that a single bad request may cause: it does not say that the endpoint is away."""
_IDLE_S = 2.0
"""Slots that no call needs are given back after so long, in seconds."""
_START_AHEAD = 2
"""Calls asked for, as a multiple of those that started since the last report."""
_MEAN_WEIGHT = 0.05
_LEAST_INTERVAL_S = 0.02
_RETRY_S = 1.0
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _RateGrant:
    """What is left of one grant."""

    bucket_no: int
    calls: int
    tokens: int
    expires_at_s: float


class RateGrants:
    """The grants that are not used up; each expires after half a second and is then given back."""

    def __init__(self) -> None:
        self._grants: deque[_RateGrant] = deque()
        self._corrections: dict[int, list[int]] = {}
        self.limited = False
        """Whether any limit per minute holds at the endpoint."""

    @property
    def calls(self) -> int:
        """Calls that may still start."""
        return sum(grant.calls for grant in self._grants)

    def add(self, grant: Grant, wanted_tokens: tuple[int, ...], asked_at_s: float) -> None:
        """Add the account's grant.

        Args:
            grant: For some of the wanted calls.
            wanted_tokens: Their estimated tokens, in order.
            asked_at_s: When it was asked for: the account can't have counted it earlier.
        """
        self.limited = grant.calls is not None
        if grant.calls:
            tokens = sum(wanted_tokens[: grant.calls])
            expires_at_s = asked_at_s + USE_WITHIN_S
            self._grants.append(_RateGrant(grant.bucket_no, grant.calls, tokens, expires_at_s))

    def take(self, tokens: int, now_s: float) -> int | None:
        """Use a grant for one call.

        Returns:
            The bucket that the call was counted in; None where no grant is left for it.
        """
        self._expire(now_s)
        for grant in self._grants:
            if grant.calls and grant.tokens >= tokens:
                grant.calls -= 1
                grant.tokens -= tokens
                return grant.bucket_no
        return None

    def correct(self, bucket_no: int, requests: int, tokens: int) -> None:
        """Note that a bucket's counts were too low by so much; negative: too high."""
        if requests or tokens:
            total = self._corrections.setdefault(bucket_no, [0, 0])
            total[0] += requests
            total[1] += tokens

    def take_corrections(self, now_s: float) -> tuple[Correction, ...]:
        """Return the corrections to report, and forget them."""
        self._expire(now_s)
        found = tuple(
            Correction(bucket_no, requests, tokens)
            for bucket_no, (requests, tokens) in self._corrections.items()
        )
        self._corrections = {}
        return found

    def _expire(self, now_s: float) -> None:
        while self._grants and self._grants[0].expires_at_s <= now_s:
            grant = self._grants.popleft()
            self.correct(grant.bucket_no, -grant.calls, -grant.tokens)


class CallCounter:
    """Counts how calls ended until the next report."""

    def __init__(self) -> None:
        self._answered = self._failed = self._overloaded = 0
        self._pause_s = 0.0
        self._away = 0
        self._denied = ""
        self._headers = _NO_CALLS

    def answered(self) -> None:
        """Count an answer."""
        self._answered += 1

    def failed(self, error: EndpointError) -> None:
        """Count a failed call; a refusal that is the request's own fault counts as an answer."""
        self._pause_s = max(self._pause_s, error.retry_after_s or 0.0)
        if isinstance(error, EndpointDeniedError):
            self._denied = str(error)
        elif isinstance(error, RateLimitedError):
            self._overloaded += 1
        elif error.retryable:
            self._failed += 1
            self._away += isinstance(error, EndpointUnavailableError) and error.http_status != _BUG
        else:
            self._answered += 1

    def note_limits(self, requests: PeriodLimit | None, tokens: PeriodLimit | None) -> None:
        """Record limits that the endpoint's headers name; None keeps what is known."""
        if requests is not None:
            self._headers = replace(
                self._headers,
                header_requests_per_minute=requests.per_minute,
                header_requests_period_s=requests.own_window_s,
            )
        if tokens is not None:
            self._headers = replace(
                self._headers,
                header_tokens_per_minute=tokens.per_minute,
                header_tokens_period_s=tokens.own_window_s,
            )

    def note_pause(self, pause_s: float) -> None:
        """Record that the endpoint asked for a pause, in seconds."""
        self._pause_s = max(self._pause_s, pause_s)

    def take(self) -> CallCounts:
        """Return the counts, and start again from 0."""
        found = replace(
            self._headers,
            answered=self._answered,
            failed=self._failed,
            overloaded=self._overloaded,
            pause_s=self._pause_s,
            denied=self._denied,
            away=self._away,
        )
        self._denied, self._away = "", 0
        self._answered = self._failed = self._overloaded = 0
        self._pause_s, self._headers = 0.0, _NO_CALLS
        return found


@dataclass(slots=True)
class SlotUse:
    """The slots that this process may use at an endpoint, and its calls there."""

    slots: int = 0
    """Calls that may be in flight at once, as the account granted last."""
    expires_at_s: float = 0.0
    """When that grant ends, by the loop's clock."""
    admitted: int = 0
    """Calls that get ready or wait to start."""
    in_flight: int = 0
    started: int = 0
    """Calls that started since the last report."""

    def has_free_slot(self, now_s: float) -> bool:
        """Return whether a call may take a slot."""
        return self.in_flight < self.slots and now_s < self.expires_at_s

    def start(self) -> None:
        """Move an admitted call into a slot."""
        self.admitted -= 1
        self.in_flight += 1
        self.started += 1


class AccountExchange:
    """The exchange of reports for grants, of one endpoint in this process.

    Args:
        endpoint: The endpoint's key in the shared accounts.
        owner: This process.
    """

    def __init__(self, endpoint: str, owner: str) -> None:
        self.endpoint, self._owner = endpoint, owner
        self.grants = RateGrants()
        self.counter = CallCounter()
        self.reported_at_s = 0.0
        self.report_at_s = 0.0
        """When the next report may bring something, by the loop's clock."""
        self.rate_per_s = 0.0
        """Calls a second that the limits per minute let all processes start; 0 without any."""
        self.slot_s = 0.0
        """How long all slots together take for a call, in seconds; 0 where that isn't known."""
        self._mean_tokens = 0.0
        self._wanted: tuple[int, ...] = ()
        self._holds_slots = False

    def expect(self, tokens: int) -> None:
        """Include a call's estimate in the mean, which stands for calls that are not ready yet."""
        weight = _MEAN_WEIGHT if self._mean_tokens else 1.0
        self._mean_tokens += (tokens - self._mean_tokens) * weight

    def due_at_s(self, *, busy: bool) -> float | None:
        """Return when to report next, by the loop's clock; None where nothing is to be reported.

        Args:
            busy: Whether any call waits or is in flight.
        """
        if busy:
            return self.report_at_s
        return self.reported_at_s + _IDLE_S if self._holds_slots else None

    def report(
        self,
        limits: EndpointLimits,
        use: SlotUse,
        ready: list[int],
        *,
        queued: int,
        call_s: float,
        now_s: float,
    ) -> EndpointReport:
        """Return the next report.

        Args:
            limits: What the pool file says.
            use: The calls that are admitted or in flight.
            ready: Estimated tokens of the calls that wait to start, in order.
            queued: Calls that wait to be admitted.
            call_s: How long a call holds its slot, in seconds; 0 where that isn't known.
            now_s: By the loop's clock.
        """
        waiting = use.admitted + queued
        self._wanted = self._wanted_tokens(limits, use, ready, waiting)
        self.reported_at_s, use.started = now_s, 0
        if not use.in_flight and not waiting:
            use.slots = 0  # they are given back; calls that come now wait for the answer
        return EndpointReport(
            self.endpoint,
            self._owner,
            limits,
            in_flight=use.in_flight,
            may_use=use.slots if now_s < use.expires_at_s else 0,
            waiting=waiting,
            wanted_tokens=self._wanted,
            corrections=self.grants.take_corrections(now_s),
            counts=self.counter.take(),
            call_s=call_s,
        )

    def _wanted_tokens(
        self, limits: EndpointLimits, use: SlotUse, ready: list[int], waiting: int
    ) -> tuple[int, ...]:
        """Return the estimated tokens of the calls that may start before the next report."""
        free = max(0, (use.slots or limits.concurrency) - use.in_flight)
        count = min(waiting, _START_AHEAD * use.started + free)
        # Grants in hand count, unless they are too small for the first call that is ready.
        count -= 0 if ready and use.in_flight < use.slots else self.grants.calls
        known = ready + [round(self._mean_tokens)] * (count - len(ready))
        return tuple(known[: max(0, count)])

    def accept(self, grant: Grant) -> None:
        """Take in what the account answered to the latest report."""
        self.report_at_s = self.reported_at_s + grant.report_again_s
        self._holds_slots, self.rate_per_s = grant.slots > 0, grant.rate_per_s
        self.slot_s = grant.slot_s
        self.grants.add(grant, self._wanted, self.reported_at_s)


class Reporter(Protocol):
    """What takes part in exchanges: a limiter."""

    @property
    def due_at_s(self) -> float | None:
        """When its next report is due, by the loop's clock; None where there is none."""
        ...

    def report(self) -> EndpointReport:
        """Return its next report."""
        ...

    def accept(self, grant: Grant) -> None:
        """Take in what the account answered to the latest report."""
        ...


class LimitSync:
    """Exchanges reports for grants, in one request for all limiters whose report is due.

    Args:
        limits: The shared accounts.
        limiters: Returns the limiters that there are.
    """

    def __init__(self, limits: SharedLimits, limiters: Callable[[], Collection[Reporter]]) -> None:
        self._limits, self._limiters = limits, limiters
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look for due reports at once, because a call waits."""
        self._wake.set()

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            try:
                await self._round()
            except Exception:  # noqa: BLE001 - if this task ended, all calls would wait for ever
                _log.exception("limits.failed")
                await asyncio.sleep(_RETRY_S)

    async def _round(self) -> None:
        now_s = asyncio.get_running_loop().time
        self._wake.clear()
        due = [limiter for limiter in self._limiters() if self._due_at_s(limiter) <= now_s()]
        if due:
            await self._exchange(due)
            await asyncio.sleep(_LEAST_INTERVAL_S)
        next_s = min(map(self._due_at_s, self._limiters()), default=math.inf)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(None if next_s == math.inf else next_s):
                await self._wake.wait()

    async def close(self) -> None:
        """Give every slot back, so that other processes need not wait for the leases to expire."""
        holding = [limiter for limiter in self._limiters() if limiter.due_at_s is not None]
        if holding:
            await self._exchange(holding)

    @staticmethod
    def _due_at_s(limiter: Reporter) -> float:
        return math.inf if limiter.due_at_s is None else limiter.due_at_s

    async def _exchange(self, due: Collection[Reporter]) -> None:
        try:
            grants = await self._limits.exchange([limiter.report() for limiter in due])
        except StoreError as error:
            # Slots are leased: they expire, and no call starts before the next exchange.
            _log.warning("limits.not_renewed", reason=str(error))
            await asyncio.sleep(_RETRY_S)
            return
        for limiter, grant in zip(due, grants, strict=True):
            limiter.accept(grant)
