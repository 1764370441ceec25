"""Decides when calls to an endpoint are admitted: by a queue, a retry budget and the prefetch.

An admitted call reserves its money, which takes a commit, and then waits for a slot.
"""

import asyncio
import math
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")

_EARNED_PER_ANSWER = 0.2
_EARNED_PER_SECOND = 1.0
"""Lets the last calls of a batch be retried, too, when few answers come any more."""
_START_BUDGET = 10.0
_MEAN_WEIGHT = 0.05
_SAFETY = 3.0
"""Calls end in bursts, and a call that just missed a commit waits for two."""


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
        self._ready_s = self._call_s = 0.0

    def note_ready(self, taken_s: float) -> None:
        """Record how long a call took from its admission until it was ready, in seconds."""
        self._ready_s = _mean(self._ready_s, taken_s)

    def note_call(self, taken_s: float) -> None:
        """Record how long a call held its slot, in seconds."""
        self._call_s = _mean(self._call_s, taken_s)

    def calls(self, slots: int) -> int:
        """Return how many calls more than there are slots may be admitted; at least one."""
        share = _SAFETY * self._ready_s / self._call_s if self._call_s else 1 / 3
        return math.ceil(slots * min(1.0, share)) + 1

    def during_commit(self, slots: int) -> int:
        """Return how many calls end, and so many may start, while one commit is awaited."""
        share = self._ready_s / self._call_s if self._call_s else 0.0
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

    def __len__(self) -> int:
        return len(self._first) + len(self._retries)

    def may_skip(self, *, retry: bool) -> bool:
        """Return whether a call that comes now need not wait for another one, or for the budget."""
        return not self._retries and self.budget.suffices if retry else not self._first

    def add(self, turn: "asyncio.Future[T]", *, retry: bool) -> None:
        """Let a call wait."""
        (self._retries if retry else self._first).append(turn)

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
