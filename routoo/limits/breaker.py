"""A breaker: an endpoint that keeps failing is left alone, then tried with one call at a time."""

from dataclasses import dataclass

FAILURES_TO_OPEN = 10
_HALF_LIFE_S = 10.0
"""Outcomes count half after this time, in seconds."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_UNWATCHED_S = 300.0
"""An outage that nobody has looked at for so long begins anew, in seconds: it may have ended."""
_PROBE_S = 30.0
"""A probe that is not heard of for so long is given to another process, in seconds."""


@dataclass(slots=True)
class Breaker:
    """Its state, for all processes."""

    answered: float = 0.0
    """Calls lately dealt with, those longer ago counting less."""
    failed: float = 0.0
    """Calls lately failed, the same."""
    counted_at_s: float = 0.0
    opened_at_s: float = 0.0
    """Since when it is open, as far as anybody looked."""
    open_until_s: float = 0.0
    """While open: when one call may try."""
    pause_s: float = 0.0
    """Length of the latest pause; 0 while closed."""
    prober: str | None = None
    """The process whose call tries."""

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self.pause_s > 0

    def outage_s(self, now_s: float) -> float:
        """Return how long it has been open; 0 while it is not."""
        return max(0.001, now_s - self.opened_at_s) if self.is_open else 0.0

    def count(self, answered: int, failed: int, now_s: float) -> None:
        """Take outcomes in, and open or close.

        Any answer closes it: the endpoint is alive. It opens when most calls fail.
        """
        if self.is_open and now_s - self.counted_at_s > _UNWATCHED_S:
            self.opened_at_s = now_s
        weight = self.weight(now_s)
        self.answered = self.answered * weight + answered
        self.failed = self.failed * weight + failed
        self.counted_at_s = now_s
        if self.is_open:
            if answered:
                self.close()
            elif failed and now_s >= self.open_until_s:
                self._open(min(2 * self.pause_s, _LONGEST_PAUSE_S), now_s)
        elif failed and self.failed >= FAILURES_TO_OPEN and self.failed > self.answered:
            self.opened_at_s = now_s
            self._open(_FIRST_PAUSE_S, now_s)

    def weight(self, now_s: float) -> float:
        """Return what the outcomes counted so far still count."""
        return float(0.5 ** (max(0.0, now_s - self.counted_at_s) / _HALF_LIFE_S))

    def close(self) -> None:
        """Let calls through, and forget the failures."""
        self.answered = self.failed = self.pause_s = self.open_until_s = 0.0
        self.prober = None

    def may_probe(self, owner: str, now_s: float) -> bool:
        """Return whether this process may try one call now, and note that it does."""
        if now_s < self.open_until_s:
            return False
        lost = now_s >= self.open_until_s + _PROBE_S
        if self.prober is None or lost:
            self.prober, self.open_until_s = owner, now_s
        return self.prober == owner

    def _open(self, pause_s: float, now_s: float) -> None:
        self.pause_s, self.open_until_s, self.prober = pause_s, now_s + pause_s, None
