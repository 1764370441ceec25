"""Calls that wait to be admitted to an endpoint, first come, first served."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

from routoo.client.limiter.retry_budget import RetryBudget

T = TypeVar("T")


class AdmissionQueue(Generic[T]):
    """Two queues, one of first calls and one of retries, which also need the retry budget.

    A call may wait in the queues of several endpoints at once: it waits for a future, and the
    first endpoint with room sets it to itself. Futures that are done are passed over elsewhere.

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
