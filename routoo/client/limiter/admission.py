"""Decides when calls to an endpoint are admitted: by a queue, a retry budget and the prefetch.

While the endpoint is closed, none is. An admitted call reserves its money, which takes a commit,
and then waits for a slot.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from routoo.domain.absence import Absence, AbsenceReason
from routoo.limits.breaker import FAILURES_TO_OPEN
from routoo.limits.records import Grant

T = TypeVar("T")

_EARNED_PER_ANSWER = 0.2
_EARNED_PER_SECOND = 1.0
"""Lets the last calls of a batch be retried, too, when few answers come any more."""
_START_BUDGET = 10.0
_MEAN_WEIGHT = 0.05
_SAFETY = 3.0
"""Calls end in bursts, and a call that just missed a commit waits for two."""
WAIT_READY_S = 1.0
"""Ready calls wait for the end of a pause that is shorter than this, in seconds."""
CLOSED = "the endpoint asked for a pause or keeps failing, and is left alone for the moment"
_SUSPECTED_OUTAGE_S = 0.001
_DENIED_FOR_S = 3.0
"""After a denial no call starts for so long, or until the account answers, in seconds."""
_SUSPECT_FOR_S = 1.0
"""After many failures in a row no call starts for so long, or until the account answers."""


@dataclass(slots=True)
class Closure:
    """The time for which an endpoint gets no calls: for a pause, or because it keeps failing."""

    open_at_s: float = 0.0
    """No call starts before this time, by the loop's clock; 0 if calls may start."""
    failing_since_s: float | None = None
    """Since when the account's breaker has been open, by the loop's clock; None while it isn't."""
    failures_in_a_row: int = 0
    asked_until_s: float = 0.0
    """When the pause that the endpoint asked for ends, by the loop's clock."""
    denied: str = ""
    """Why the endpoint takes no requests at all; empty if it takes some."""

    def absence(self, now_s: float) -> Absence | None:
        """Return why the endpoint is closed; None where a call may be tried, or may be soon."""
        if not self.is_closed(now_s):
            return None
        if self.failing_since_s is not None:
            reason = AbsenceReason.DENIED if self.denied else AbsenceReason.UNAVAILABLE
            return Absence(reason, self.outage_s(now_s), message=self.denied or CLOSED)
        rest_s = self.asked_until_s - now_s
        if rest_s < WAIT_READY_S:
            return None
        return Absence(AbsenceReason.RATE_LIMITED, 0.0, rest_s, f"it asked to wait {rest_s:.0f} s")

    def deny(self, message: str, now_s: float) -> None:
        """Close the endpoint because it takes no requests at all."""
        self.denied = message
        self._fail_for(_DENIED_FOR_S, now_s)

    def is_closed(self, now_s: float) -> bool:
        """Return whether no call may start now."""
        return now_s < self.open_at_s

    def close_for(self, pause_s: float, now_s: float) -> None:
        """Let no call start for so long at least, in seconds."""
        self.open_at_s = max(self.open_at_s, now_s + pause_s)

    def suspect(self, now_s: float) -> bool:
        """Count a failure; return whether there were so many that the endpoint is closed for it.

        The account's breaker opens with the next report; until then jobs would use up their
        attempts.
        """
        self.failures_in_a_row += 1
        if self.failures_in_a_row < FAILURES_TO_OPEN:
            return False
        self._fail_for(_SUSPECT_FOR_S, now_s)
        return True

    def _fail_for(self, pause_s: float, now_s: float) -> None:
        if self.failing_since_s is None:
            self.failing_since_s = now_s
        self.close_for(pause_s, now_s)

    def outage_s(self, now_s: float) -> float:
        """Return how long the account's breaker has been open, in seconds; 0 if it is closed."""
        since_s = self.failing_since_s
        return 0.0 if since_s is None else max(_SUSPECTED_OUTAGE_S, now_s - since_s)

    def accept(self, grant: Grant, now_s: float) -> None:
        """Take over what the account says."""
        self.open_at_s = now_s + grant.closed_s if grant.closed_s > 0 else 0.0
        self.failing_since_s = now_s - grant.outage_s if grant.outage_s else None
        self.denied = grant.denied
        self.asked_until_s = now_s + grant.rest_s


class RetryBudget:
    """Retries that one endpoint may get from this process: answers earn them, retries spend them.

    In steady state retries are at most a fifth of the answers; while an endpoint answers nothing,
    one per second is possible.

    Args:
        capacity: Most retries that can be saved up; at least 10, which is also where it starts.
    """

    def __init__(self, capacity: float) -> None:
        self._capacity = max(_START_BUDGET, capacity)
        self._saved = _START_BUDGET

    def earn(self, answers: int, elapsed_s: float) -> None:
        """Add what answers, and the time since the last call of this method, are worth."""
        earned = answers * _EARNED_PER_ANSWER + elapsed_s * _EARNED_PER_SECOND
        self._saved = min(self._capacity, self._saved + earned)

    def refund(self) -> None:
        """Give back what a retry cost, because it was answered."""
        self._saved = min(self._capacity, self._saved + 1.0)

    @property
    def suffices(self) -> bool:
        """Whether one more retry is possible."""
        return self._saved >= 1.0

    def spend(self) -> None:
        """Take a retry's cost."""
        self._saved -= 1.0


class Prefetch:
    """Says how many calls are admitted ahead of free slots, by the times that calls took.

    With too few calls admitted ahead, slots stay empty while commits are awaited; with too many,
    money is reserved for nothing. By Little's law the calls that end during one commit are the
    slots, times the commit's share of a call's time.
    """

    def __init__(self) -> None:
        self._ready_s = self.call_s = 0.0
        """How long a call takes to get ready, and how long it holds its slot, in seconds."""

    def note_ready(self, taken_s: float) -> None:
        """Record how long a call took from its admission until it was ready, in seconds."""
        self._ready_s = _mean(self._ready_s, taken_s)

    def note_call(self, taken_s: float) -> None:
        """Record how long a call held its slot, in seconds."""
        self.call_s = _mean(self.call_s, taken_s)

    def calls(self, slots: int) -> int:
        """Return how many calls more than there are slots may be admitted; at least one."""
        share = _SAFETY * self._ready_s / self.call_s if self.call_s else 1 / 3
        return math.ceil(slots * min(1.0, share)) + 1

    def during_commit(self, slots: int) -> int:
        """Return how many calls end, and so many may start, while one commit is awaited."""
        share = self._ready_s / self.call_s if self.call_s else 0.0
        return math.ceil(slots * min(1.0, share))


def _mean(mean: float, value: float) -> float:
    """Return an exponential moving average, which starts at its first value."""
    return mean + (value - mean) * (_MEAN_WEIGHT if mean else 1.0)


class AdmissionQueue(Generic[T]):
    """Two queues, one of first calls and one of retries, which also need the retry budget.

    A call may wait in the queues of several endpoints at once: it waits for a future, and the
    first endpoint that can admit the call sets it to itself; the other queues skip it then.

    Args:
        budget: Limits the retries.
    """

    def __init__(self, budget: RetryBudget) -> None:
        self.budget = budget
        self._first: deque[asyncio.Future[T]] = deque()
        self._retries: deque[asyncio.Future[T]] = deque()
        self.waiting = 0
        """Calls that wait; those that gave up or were admitted elsewhere may be queued, too."""

    def __bool__(self) -> bool:
        return bool(self._first or self._retries)

    def may_skip(self, *, retry: bool) -> bool:
        """Return whether a call that comes now need not wait for another one, or for the budget."""
        return not self._retries and self.budget.suffices if retry else not self._first

    def add(self, turn: "asyncio.Future[T]", *, retry: bool) -> None:
        """Let a call wait."""
        self.waiting += 1
        turn.add_done_callback(self._note_done)
        (self._retries if retry else self._first).append(turn)

    def _note_done(self, _turn: "asyncio.Future[T]") -> None:
        self.waiting -= 1

    def next(self) -> "tuple[asyncio.Future[T], bool] | None":
        """Remove the next call, and return it and whether it is a retry; None without any."""
        if self._retries and self.budget.suffices:
            return self._retries.popleft(), True
        return (self._first.popleft(), False) if self._first else None

    def clear(self) -> "list[asyncio.Future[T]]":
        """Remove all calls and return them."""
        turns = [*self._first, *self._retries]
        self._first.clear()
        self._retries.clear()
        return turns
