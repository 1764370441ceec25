"""How many calls get ready ahead of the places they will take.

A call is ready once its money is reserved, which takes a commit. Too few ahead, and places stay
empty while commits are waited for; too many, and money is set aside for nothing. By Little's law
the calls that end during one commit are the places times the commit's share of a call's time.
"""

import math

_WEIGHT = 0.05
_SPREAD = 3.0
"""Calls end in bursts, and who has just missed a commit waits for two."""


class Lead:
    """Of one endpoint in this process; learns both times as they pass, in seconds."""

    def __init__(self) -> None:
        self._ready_s = self._call_s = 0.0

    def readied(self, taken_s: float) -> None:
        """Note how long a call took to get ready."""
        self._ready_s = _mean(self._ready_s, taken_s)

    def called(self, taken_s: float) -> None:
        """Note how long a call held its place."""
        self._call_s = _mean(self._call_s, taken_s)

    def calls(self, places: int) -> int:
        """Return how many calls more than there are places may get ready; at least one."""
        share = _SPREAD * self._ready_s / self._call_s if self._call_s else 1 / 3
        return math.ceil(places * min(1.0, share)) + 1


def _mean(mean: float, value: float) -> float:
    return mean + (value - mean) * (_WEIGHT if mean else 1.0)
