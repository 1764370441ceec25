"""Time limits of calls, one timer for all that end in the same moment.

`asyncio.timeout` makes and cancels a timer a call, which cost a dispatcher more than encoding the
request; here calls with the same limit share their timers.
"""

import asyncio
import math
from types import TracebackType

_GRAIN_S = 0.01
_LONG_S = 10.0
_LONG_GRAIN_S = 0.1
"""Grain of limits that are long: no limit lasts more than a hundredth, or 10 ms, too long."""


class Deadlines:
    """Cancels what outlasts its limit; of one event loop."""

    def __init__(self) -> None:
        self._slots: dict[float, set[TimeLimit]] = {}

    def within(self, limit_s: float) -> "TimeLimit":
        """Return a context that raises TimeoutError when it lasts longer, in seconds."""
        loop = asyncio.get_running_loop()
        grain_s = _GRAIN_S if limit_s < _LONG_S else _LONG_GRAIN_S
        ends_at_s = math.ceil((loop.time() + limit_s) / grain_s) * grain_s
        slot = self._slots.get(ends_at_s)
        if slot is None:
            slot = self._slots[ends_at_s] = set()
            loop.call_at(ends_at_s, self._expire, ends_at_s)
        return TimeLimit(slot)

    def _expire(self, ends_at_s: float) -> None:
        for limit in self._slots.pop(ends_at_s):
            limit.expire()


class TimeLimit:
    """A time limit of the current task, as `asyncio.timeout` keeps it; for one use, at once.

    Args:
        slot: Those that end in the same moment.
    """

    __slots__ = ("_cancelling", "_expired", "_slot", "_task")

    def __init__(self, slot: "set[TimeLimit]") -> None:
        self._slot, self._expired = slot, False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task to cancel")
        self._task, self._cancelling = task, task.cancelling()
        self._slot.add(self)

    def expire(self) -> None:
        """Cancel the task: its time is up."""
        self._expired = True
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._slot.discard(self)
        # As in asyncio.timeout: a task that others cancelled, too, stays cancelled.
        alone = self._expired and self._task.uncancel() <= self._cancelling
        if alone and kind is asyncio.CancelledError:
            raise TimeoutError from error
