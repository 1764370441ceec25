"""The account of one endpoint: places, rates, breaker, over all processes that call it.

Whoever keeps accounts (memory for one process, the database for many) loads one, lets it answer a
report, and stores it: nothing here waits or knows a clock.
"""

from dataclasses import dataclass, field

from routoo.limits.breaker import Breaker
from routoo.limits.records import Grant, Report
from routoo.limits.shares import fair_shares
from routoo.limits.window import Window

WINDOW_S = 60.0
"""Requests and tokens are limited per minute."""
LEASE_S = 10.0
"""A process that has been silent so long has lost its places, in seconds."""
_ASK_FOR_CALLS_S = 0.1
_ASK_FOR_PLACES_S = 0.25
LONGEST_PAUSE_S = 300.0
"""An endpoint that asks for more is asked again after so long, in seconds."""
_BACK_OFF = 0.7
"""What is left of the places after an overload."""
_REFUSED_SHARE = 0.05
"""Fewer refusals than this show an endpoint that is busy now and then, not one that is full."""
_GROWTH = 0.05
_BACK_OFF_EVERY_S = 1.0
"""Calls that were refused together count once."""


@dataclass(slots=True)
class Seat:
    """What one process holds."""

    places: int
    wanted: int
    """Places it could use."""
    expires_at_s: float


@dataclass(slots=True)
class Account:
    """What all processes together did at an endpoint lately, and what it bears."""

    span_s: float = WINDOW_S
    seats: dict[str, Seat] = field(default_factory=dict)
    """Places held, by process."""
    bearable: float | None = None
    """Places the endpoint bore lately (AIMD); None until it was overloaded once."""
    refused: float = 0.0
    """Calls lately refused as too many, those longer ago counting less."""
    backed_off_at_s: float = 0.0
    paused_until_s: float = 0.0
    """The endpoint asked to be left alone until then."""
    learnt_requests_per_minute: int | None = None
    learnt_tokens_per_minute: int | None = None
    breaker: Breaker = field(default_factory=Breaker)
    requests: Window = field(init=False)
    tokens: Window = field(init=False)

    def __post_init__(self) -> None:
        """Begin with empty windows."""
        self.requests, self.tokens = Window(self.span_s), Window(self.span_s)

    def answer(self, report: Report, now_s: float) -> Grant:
        """Take a report in, and say what its process may do next.

        Args:
            report: What the process did and wants.
            now_s: Seconds since the epoch, by a clock that all processes share.
        """
        bucket_no = self.requests.advance(now_s)
        self.tokens.advance(now_s)
        for correction in report.corrections:
            self.requests.add(correction.bucket_no, correction.requests)
            self.tokens.add(correction.bucket_no, correction.tokens)
        self._learn(report, now_s)
        places = self._seat(report, now_s)
        closed_s = self._closed_s(report.owner, now_s)
        if self.breaker.is_open:
            places = min(places, 1)
        # Leave for more calls than there are places: a place serves several before the next report.
        most = 1 if self.breaker.is_open else len(report.wanted_tokens)
        calls = self._calls(report, bucket_no, most if places and closed_s <= 0 else 0)
        again_s = self._ask_again_s(calls, closed_s)
        return Grant(places, calls, bucket_no, closed_s, self.breaker.outage_s(now_s), again_s)

    def _learn(self, report: Report, now_s: float) -> None:
        seen = report.outcomes
        self.refused = self.refused * self.breaker.weight(now_s) + seen.overloaded
        self.breaker.count(seen.answered, seen.failed, now_s)
        pause_s = min(seen.pause_s, LONGEST_PAUSE_S)
        self.paused_until_s = max(self.paused_until_s, now_s + pause_s)
        if seen.learnt_requests_per_minute is not None:
            self.learnt_requests_per_minute = seen.learnt_requests_per_minute
        if seen.learnt_tokens_per_minute is not None:
            self.learnt_tokens_per_minute = seen.learnt_tokens_per_minute
        too_many = self.refused > _REFUSED_SHARE * (self.refused + self.breaker.answered)
        if seen.overloaded and too_many:
            self._back_off(report, now_s)
        elif self.bearable is not None:
            self._grow(report, seen.answered)

    def _back_off(self, report: Report, now_s: float) -> None:
        if now_s - self.backed_off_at_s >= _BACK_OFF_EVERY_S:
            most = report.caps.concurrency if self.bearable is None else self.bearable
            self.bearable, self.backed_off_at_s = max(1.0, most * _BACK_OFF), now_s

    def _grow(self, report: Report, answered: int) -> None:
        """Add a place, or a twentieth, a round of answers, up to what the pool allows."""
        assert self.bearable is not None  # noqa: S101 - the caller checked
        self.bearable += answered * max(1.0 / self.bearable, _GROWTH)
        if self.bearable >= report.caps.concurrency:
            self.bearable = None

    def _seat(self, report: Report, now_s: float) -> int:
        self.seats = {
            owner: seat for owner, seat in self.seats.items() if seat.expires_at_s > now_s
        }
        wanted = report.in_flight + report.waiting
        most = report.caps.concurrency
        if self.bearable is not None:
            most = min(most, max(1, int(self.bearable)))
        others = {name: seat for name, seat in self.seats.items() if name != report.owner}
        if wanted == 0:
            self.seats = others
            return 0
        wants = {name: max(seat.wanted, 1) for name, seat in others.items()}
        share = fair_shares(most, {**wants, report.owner: wanted})[report.owner]
        # What the others hold is theirs until they give it back.
        free = most - sum(seat.places for seat in others.values())
        places = max(0, min(share, free))
        held = max(places, report.in_flight)
        self.seats[report.owner] = Seat(held, wanted, now_s + LEASE_S)
        return places

    def _closed_s(self, owner: str, now_s: float) -> float:
        closed_s = max(0.0, self.paused_until_s - now_s)
        if self.breaker.is_open and not self.breaker.may_probe(owner, now_s):
            closed_s = max(closed_s, self.breaker.open_until_s - now_s, _ASK_FOR_PLACES_S)
        return closed_s

    def _calls(self, report: Report, bucket_no: int, most_calls: int) -> int | None:
        requests = self._scaled(report.caps.requests_per_minute, self.learnt_requests_per_minute)
        most = self._scaled(report.caps.tokens_per_minute, self.learnt_tokens_per_minute)
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

    def _scaled(self, declared: float | None, learnt: int | None) -> int | None:
        known = [limit for limit in (declared, learnt) if limit is not None]
        return max(1, int(min(known) * self.span_s / WINDOW_S)) if known else None

    def _fits(self, requests: int | None, most: int | None, tokens: int) -> bool:
        if requests is not None and self.requests.room(requests) < 1:
            return False
        # A call that is larger than the limit itself waits for an empty window.
        return most is None or self.tokens.room(most) >= min(tokens, most)

    @staticmethod
    def _ask_again_s(calls: int | None, closed_s: float) -> float:
        wait_s = _ASK_FOR_PLACES_S if calls is None else _ASK_FOR_CALLS_S
        return max(wait_s, min(closed_s, 1.0))
