"""A sliding window in buckets: no stretch of its length ever holds more than the limit.

A token bucket lets twice its size through within one window: the full bucket, then its refill.
Here whatever was granted counts for as long as any window can still see it: the window's own
length, a bucket's length, the time in which a grant may be used, and the time until the endpoint
sees the call.
"""

import math
from dataclasses import dataclass, field

USE_WITHIN_S = 0.5
"""A grant that is not used within this time expires, in seconds."""
SLACK_S = 0.5
"""Longest time from a call's start here until the endpoint counts it, in seconds."""
_BUCKETS_PER_WINDOW = 120
_SHORT = 6
"""Length of a short window, as a share of the whole one."""
_SHORT_SHARE = 4
"""Share of the limit that a short window may hold, because endpoints count by the second too."""


@dataclass(slots=True)
class SlidingWindow:
    """Counts of the latest buckets, the newest last."""

    span_s: float
    """Length of the window, in seconds."""
    newest: int = 0
    """Number of the newest bucket since the epoch."""
    counts: list[int] = field(default_factory=list)

    @property
    def bucket_s(self) -> float:
        """Length of a bucket, in seconds."""
        return self.span_s / _BUCKETS_PER_WINDOW

    def advance(self, now_s: float) -> int:
        """Move on to the bucket of this instant and return its number.

        Buckets that no window can see any more are dropped. A clock that went back changes nothing.
        """
        size = self._size(self.span_s)
        self.counts = ([0] * size + self.counts)[-size:]
        steps = max(0, int(now_s / self.bucket_s) - self.newest)
        self.newest += steps
        self.counts = (self.counts + [0] * min(steps, size))[-size:]
        return self.newest

    def room(self, limit: int, own_s: float | None = None) -> int:
        """Return how much more may be granted now.

        Args:
            limit: What the whole window may hold.
            own_s: Length of the endpoint's own window, which is shorter and may hold its share of
                the limit, in seconds; None where it has the length of this one.
        """
        if own_s is None:
            buckets, share = self._size(self.span_s / _SHORT), limit / _SHORT_SHARE
        else:
            own_s = max(own_s, self.bucket_s)
            # In a window of some seconds the slack would leave most of the limit unused.
            is_long = own_s >= self.span_s / _SHORT
            buckets = self._size(own_s) if is_long else math.ceil(own_s / self.bucket_s)
            share = limit * own_s / self.span_s
        lately = sum(self.counts[-buckets:])
        # A single call may be larger than a short window's share.
        short = math.ceil(share) - lately if lately else limit
        return max(0, min(limit - sum(self.counts), short))

    def add(self, bucket_no: int, amount: int) -> None:
        """Add to a bucket's count, which stays at least 0; a dropped bucket is ignored."""
        index = bucket_no - self.newest - 1
        if -len(self.counts) <= index < 0:
            self.counts[index] = max(0, self.counts[index] + amount)

    def _size(self, span_s: float) -> int:
        # Two more buckets, because neither end of the window need fall on a bucket's edge.
        return math.ceil((span_s + USE_WITHIN_S + SLACK_S) / self.bucket_s) + 2
