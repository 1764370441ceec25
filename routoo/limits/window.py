"""A sliding window, kept in buckets, in which no stretch of time holds more than its limit.

A token bucket lets twice its size through within one window: the full bucket, then what refills.
Here whatever was granted is counted for as long as any window can still see it: the window itself,
the bucket's own length, the time a grant may be used in, and some slack until the endpoint sees it.
"""

import math
from dataclasses import dataclass, field

USE_WITHIN_S = 0.5
"""A grant that is not used within this time is lost, in seconds."""
SLACK_S = 0.5
"""Longest way of a call from its start here to the endpoint's own clock, in seconds."""
_BUCKETS_A_WINDOW = 120
_SHORT = 6
"""A short window is this fraction of the whole; ..."""
_SHORT_SHARE = 4
"""... and may hold this fraction of the limit: endpoints meter by the second, too."""


@dataclass(slots=True)
class Window:
    """Counts of the latest buckets, the newest last."""

    span_s: float
    """Length of the window, in seconds."""
    newest: int = 0
    """Number of the newest bucket since the epoch."""
    counts: list[int] = field(default_factory=list)

    @property
    def bucket_s(self) -> float:
        """Length of a bucket, in seconds."""
        return self.span_s / _BUCKETS_A_WINDOW

    def advance(self, now_s: float) -> int:
        """Move on to the bucket of this instant, forget what no window sees, return its number.

        A clock that went back moves nothing.
        """
        size = self._size(self.span_s)
        self.counts = ([0] * size + self.counts)[-size:]
        steps = max(0, int(now_s / self.bucket_s) - self.newest)
        self.newest += steps
        self.counts = (self.counts + [0] * min(steps, size))[-size:]
        return self.newest

    def room(self, limit: int) -> int:
        """Return how much more may be granted now."""
        lately = sum(self.counts[-self._size(self.span_s / _SHORT) :])
        # One call at a time may be larger than a short window's share.
        short = math.ceil(limit / _SHORT_SHARE) - lately if lately else limit
        return max(0, min(limit - sum(self.counts), short))

    def add(self, bucket_no: int, amount: int) -> None:
        """Count in a bucket; one that is forgotten takes nothing, and none falls below zero."""
        index = bucket_no - self.newest - 1
        if -len(self.counts) <= index < 0:
            self.counts[index] = max(0, self.counts[index] + amount)

    def _size(self, span_s: float) -> int:
        # Two more: neither the window's start nor its end need fall on a bucket's edge.
        return math.ceil((span_s + USE_WITHIN_S + SLACK_S) / self.bucket_s) + 2
