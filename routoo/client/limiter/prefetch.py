"""How many calls are admitted before a slot is free for them.

An admitted call reserves its money, which takes a commit. With too few calls admitted ahead, slots
stay empty while commits are awaited; with too many, money is reserved for nothing. By Little's law
the calls that end during one commit are the slots, times the commit's share of a call's time.
"""

import math

_WEIGHT = 0.05
_SAFETY = 3.0
"""Calls end in bursts, and a call that just missed a commit waits for two."""


class Prefetch:
    """Calls to admit ahead of one endpoint's slots; learns the two times from each call."""

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


def _mean(mean: float, value: float) -> float:
    """Return an exponential moving average, which starts at its first value."""
    return mean + (value - mean) * (_WEIGHT if mean else 1.0)
