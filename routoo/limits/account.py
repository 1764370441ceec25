"""The account of one endpoint: slots, rates and breaker, over all processes that call it.

A process reports what it did and wants; the account answers with a grant. `MemoryLimits` keeps the
accounts of a single process, `routoo.store.endpoints` those of many in the database: they
load an account, let it answer a report and store it. An `Account` itself reads no clock and does no
I/O.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from routoo.limits.breaker import Breaker
from routoo.limits.records import CallCounts, Correction, EndpointReport, Grant
from routoo.limits.sliding_window import SlidingWindow

WINDOW_S = 60.0
"""Length of the window that rates are counted in, in seconds: they are limits per minute."""
LEASE_S = 10.0
"""A process that has not reported for so long loses its slots, in seconds."""
LEASE_MARGIN_S = 1.0
"""A process stops using its slots so long before: a crash of the database may forget its last
report."""
LONGEST_PAUSE_S = 300.0
"""Longest pause an endpoint can ask for, in seconds; after it, it is called again."""
DENIED_PAUSE_S = 30.0
"""Time between the probes of an endpoint that denies every request, in seconds."""
_REPORT_FOR_CALLS_S = 0.1
_REPORT_FOR_SLOTS_S = 0.25
_DECREASE = 0.7
"""Share of the slots that is left after an overload."""
_REFUSED_SHARE = 0.05
"""Share of calls refused as too many below which an endpoint does not count as overloaded."""
_INCREASE = 0.05
_HELD_S = 2.0
"""What an endpoint that a person holds is closed for from one report to the next, in seconds."""
_DECREASE_INTERVAL_S = 1.0
"""Refusals within this time of a decrease cause no second one, in seconds."""


@dataclass(slots=True)
class SlotLease:
    """The slots that one process holds, until it reports again or the lease expires."""

    slots: int
    wanted: int
    """Slots that the process could use."""
    expires_at_s: float


class _WindowLimit(NamedTuple):
    limit: int
    """What the whole sliding window may hold."""
    own_s: float | None
    """Length of the endpoint's own window, if that is shorter, in seconds."""


@dataclass(slots=True)
class Account:
    """What all processes together did at an endpoint lately, and what they may do next."""

    span_s: float = WINDOW_S
    leases: dict[str, SlotLease] = field(default_factory=dict)
    """Slots held, by process."""
    aimd_limit: float | None = None
    """Slots that the endpoint can serve, by additive increase and multiplicative decrease (Chiu and
    Jain, 1989); None while it has not been overloaded, and then the pool's limit holds alone."""
    refused: float = 0.0
    """Calls that were lately refused as too many, older ones weighing less."""
    decreased_at_s: float = 0.0
    """When `aimd_limit` was last decreased."""
    paused_until_s: float = 0.0
    """The endpoint asked for no calls until then."""
    asked_until_s: float = 0.0
    """Until then the endpoint really asked for no calls, however long that is."""
    denied: str = ""
    """Why the endpoint takes no requests at all; empty if it takes some."""
    held_since_s: float = 0.0
    """Since then a person lets no call start; 0 where nobody holds the endpoint."""
    header_requests_per_minute: int | None = None
    """Limit that the endpoint's `x-ratelimit-*` headers name."""
    header_tokens_per_minute: int | None = None
    """The same, of tokens."""
    header_requests_period_s: float | None = None
    """Length of the window in which the endpoint counts requests, in seconds; None for a minute."""
    header_tokens_period_s: float | None = None
    """The same, of tokens."""
    breaker: Breaker = field(default_factory=Breaker)
    reported_at_s: float = 0.0
    """When any process reported last."""
    rate_per_s: float = 0.0
    """Calls a second that the limits per minute let start; 0 where there are none."""
    slot_s: float = 0.0
    """How long all slots together take for a call, in seconds; 0 where no call has ended."""
    requests: SlidingWindow = field(init=False)
    tokens: SlidingWindow = field(init=False)

    def __post_init__(self) -> None:
        """Start with empty windows."""
        self.requests, self.tokens = SlidingWindow(self.span_s), SlidingWindow(self.span_s)

    def answer(self, report: EndpointReport, now_s: float, up_since_s: float = 0.0) -> Grant:
        """Take a report in, and return what its process may do until its next one.

        Args:
            report: What the process did and wants.
            now_s: Seconds since the epoch, by a clock that all processes share.
            up_since_s: When the place started where the account is kept: before that nobody could
                report.
        """
        self._extend_after_outage(now_s, up_since_s)
        bucket_no = self.requests.advance(now_s)
        self.tokens.advance(now_s)
        self._correct(report.corrections)
        self._count_calls(report, now_s)
        slots = self._lease_slots(report, now_s)
        closed_s = self._closed_s(report.owner, now_s)
        slots = min(slots, 1) if self.breaker.is_open else slots
        # More calls may start than there are slots: a slot serves several before the next report.
        most = 1 if self.breaker.is_open else len(report.wanted_tokens)
        calls = self._grant_calls(report, bucket_no, most if slots and closed_s <= 0 else 0)
        report_again_s = self._report_again_s(calls, closed_s)
        outage_s = max(self.breaker.outage_s(now_s), self.held_s(now_s))
        rest_s = max(0.0, self.asked_until_s - now_s) if closed_s > 0 else 0.0
        denied = self.denied if self.breaker.is_open else ""
        return Grant(
            slots,
            calls,
            bucket_no,
            closed_s,
            outage_s,
            report_again_s,
            rest_s,
            denied,
            self.rate_per_s,
            self.slot_s,
            self.breaker.is_answered,
        )

    def queue_s(self, now_s: float) -> float:
        """Return how long the limits keep the calls that wait now, in seconds."""
        known = [lease for lease in self.leases.values() if lease.expires_at_s > now_s]
        wanted = sum(lease.wanted for lease in known)
        slots = sum(lease.slots for lease in known)
        by_rate_s = wanted / self.rate_per_s if self.rate_per_s else 0.0
        return max(by_rate_s, max(0, wanted - slots) * self.slot_s)

    @property
    def interval_s(self) -> float:
        """How long the limits keep each call that waits, in seconds."""
        return max(1.0 / self.rate_per_s if self.rate_per_s else 0.0, self.slot_s)

    def held_s(self, now_s: float) -> float:
        """Return how long a person has let no call start, in seconds; 0 where nobody does."""
        return max(0.001, now_s - self.held_since_s) if self.held_since_s else 0.0

    def _correct(self, corrections: Sequence[Correction]) -> None:
        """Count what calls of the last minute turned out to take."""
        for correction in corrections:
            self.requests.add(correction.bucket_no, correction.requests)
            self.tokens.add(correction.bucket_no, correction.tokens)

    def _count_calls(self, report: EndpointReport, now_s: float) -> None:
        seen = report.counts
        self.refused = self.refused * self.breaker.weight(now_s) + seen.overloaded
        self.breaker.count(seen.answered, seen.failed, now_s, away=seen.away)
        if seen.denied:
            self.denied = seen.denied
            self.breaker.deny(DENIED_PAUSE_S, now_s)
        elif not self.breaker.is_open:
            self.denied = ""
        self._note_pause(seen, now_s)
        self._note_header_limits(seen)
        too_many = self.refused > _REFUSED_SHARE * (self.refused + self.breaker.answered)
        if seen.overloaded and too_many:
            self._decrease(report, now_s)
        elif self.aimd_limit is not None:
            self.aimd_limit = self._increased(self.aimd_limit, report, seen.answered)

    def _note_pause(self, seen: CallCounts, now_s: float) -> None:
        if seen.answered and not seen.pause_s and now_s >= self.paused_until_s:
            self.asked_until_s = 0.0
        self.asked_until_s = max(self.asked_until_s, now_s + seen.pause_s if seen.pause_s else 0.0)
        pause_s = min(seen.pause_s, LONGEST_PAUSE_S)
        self.paused_until_s = max(self.paused_until_s, now_s + pause_s)

    def _note_header_limits(self, seen: CallCounts) -> None:
        if seen.header_requests_per_minute is not None:
            self.header_requests_per_minute = seen.header_requests_per_minute
            self.header_requests_period_s = seen.header_requests_period_s
        if seen.header_tokens_per_minute is not None:
            self.header_tokens_per_minute = seen.header_tokens_per_minute
            self.header_tokens_period_s = seen.header_tokens_period_s

    def _decrease(self, report: EndpointReport, now_s: float) -> None:
        if now_s - self.decreased_at_s >= _DECREASE_INTERVAL_S:
            most = report.limits.concurrency if self.aimd_limit is None else self.aimd_limit
            self.aimd_limit, self.decreased_at_s = max(1.0, most * _DECREASE), now_s

    @staticmethod
    def _increased(aimd_limit: float, report: EndpointReport, answered: int) -> float | None:
        """Return the limit after some answers; None where the pool's limit is reached.

        It grows by one slot, or a twentieth, for as many answers as there are slots.
        """
        aimd_limit += answered * max(1.0 / aimd_limit, _INCREASE)
        return None if aimd_limit >= report.limits.concurrency else aimd_limit

    def slots_of(self, owner: str) -> int:
        """Return the slots that a process holds."""
        return self.leases[owner].slots if owner in self.leases else 0

    def _extend_after_outage(self, now_s: float, up_since_s: float) -> None:
        """Let the leases hold on that nobody could renew: calls may still be in flight."""
        if up_since_s > self.reported_at_s:
            for lease in self.leases.values():
                lease.expires_at_s = max(lease.expires_at_s, now_s + LEASE_S)
        self.reported_at_s = now_s

    def _lease_slots(self, report: EndpointReport, now_s: float) -> int:
        self.leases = {
            owner: lease for owner, lease in self.leases.items() if lease.expires_at_s > now_s
        }
        wanted = report.in_flight + report.waiting
        most = report.limits.concurrency
        if self.aimd_limit is not None:
            most = min(most, max(1, int(self.aimd_limit)))
        if report.call_s:
            self.slot_s = report.call_s / most
        others = {name: lease for name, lease in self.leases.items() if name != report.owner}
        if wanted == 0:
            self.leases = others
            return 0
        wants = {name: max(lease.wanted, 1) for name, lease in others.items()}
        share = fair_shares(most, {**wants, report.owner: wanted})[report.owner]
        # Slots that other processes hold are theirs until they give them back.
        free = most - sum(lease.slots for lease in others.values())
        slots = max(0, min(share, free))
        # Until it has the answer the process goes by the grant before.
        held = max(slots, report.in_flight, report.may_use)
        self.leases[report.owner] = SlotLease(held, wanted, now_s + LEASE_S)
        return slots

    def _closed_s(self, owner: str, now_s: float) -> float:
        closed_s = max(0.0, self.paused_until_s - now_s)
        if self.breaker.is_open and not self.breaker.may_probe(owner, now_s):
            closed_s = max(closed_s, self.breaker.open_until_s - now_s, _REPORT_FOR_SLOTS_S)
        return max(closed_s, _HELD_S) if self.held_since_s else closed_s

    def _grant_calls(self, report: EndpointReport, bucket_no: int, most_calls: int) -> int | None:
        limits = report.limits
        requests = self._window_limit(
            limits.requests_per_minute,
            self.header_requests_per_minute,
            self.header_requests_period_s,
        )
        most = self._window_limit(
            limits.tokens_per_minute, self.header_tokens_per_minute, self.header_tokens_period_s
        )
        self._note_rate(requests, most, report.wanted_tokens)
        if requests is None and most is None:
            return None
        granted = 0
        for tokens in report.wanted_tokens[:most_calls]:
            if not self._fits(requests, most, tokens):
                break
            self.requests.add(bucket_no, 1)
            self.tokens.add(bucket_no, tokens)
            granted += 1
        return granted

    def _note_rate(
        self,
        requests: "_WindowLimit | None",
        most: "_WindowLimit | None",
        tokens: tuple[int, ...],
    ) -> None:
        rates = [] if requests is None else [requests.limit / self.span_s]
        if most is not None and tokens:
            rates.append(most.limit / self.span_s / max(1.0, sum(tokens) / len(tokens)))
        if rates:
            self.rate_per_s = min(rates)
        elif most is None:
            self.rate_per_s = 0.0

    def _window_limit(
        self, of_pool: float | None, of_headers: int | None, period_s: float | None
    ) -> "_WindowLimit | None":
        """Return the lower of two limits per minute as one of the window; None without any."""
        known = [limit for limit in (of_pool, of_headers) if limit is not None]
        if not known:
            return None
        shrink = self.span_s / WINDOW_S
        own_s = None
        if period_s is not None and min(known) == of_headers:
            own_s = period_s * shrink
        return _WindowLimit(max(1, int(min(known) * shrink)), own_s)

    def _fits(
        self, requests: "_WindowLimit | None", most: "_WindowLimit | None", tokens: int
    ) -> bool:
        if requests is not None and self.requests.room(*requests) < 1:
            return False
        # A call that is larger than the limit itself waits for an empty window.
        return most is None or self.tokens.room(*most) >= min(tokens, most.limit)

    @staticmethod
    def _report_again_s(calls: int | None, closed_s: float) -> float:
        wait_s = _REPORT_FOR_SLOTS_S if calls is None else _REPORT_FOR_CALLS_S
        return max(wait_s, min(closed_s, 1.0))


def fair_shares(slots: int, wanted: Mapping[str, int]) -> dict[str, int]:
    """Divide a whole number of slots max-min fairly.

    Whoever wants less than an even share gets what it wants; the rest is divided evenly among the
    others.

    Args:
        slots: How many there are.
        wanted: How many each process could use.

    Returns:
        A share for each process; all shares together are at most `slots`.
    """
    shares: dict[str, int] = {}
    left = slots
    for served, name in enumerate(sorted(wanted, key=lambda name: (wanted[name], name))):
        shares[name] = min(wanted[name], left // (len(wanted) - served))
        left -= shares[name]
    return shares


class MemoryLimits:
    """Implements `routoo.ports.SharedLimits` for a process that shares endpoints with no other."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    async def exchange(self, reports: Sequence[EndpointReport]) -> list[Grant]:
        """Return a grant for each report, in order."""
        return [
            self._accounts.setdefault(report.endpoint, Account(WINDOW_S)).answer(
                report, time.monotonic()
            )
            for report in reports
        ]
