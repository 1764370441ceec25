"""A circuit breaker: an endpoint that keeps failing gets no calls, then single ones as probes."""

from dataclasses import dataclass

FAILURES_TO_OPEN = 10
_AWAY_TO_OPEN = 2.5
"""Three failures within some seconds."""
_NO_ANSWERS = 0.1
_HALF_LIFE_S = 10.0
"""How a call ended counts half after this time, in seconds."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_UNWATCHED_S = 300.0
"""After so long without a report an outage is timed anew, in seconds: it may have ended."""
_PROBE_S = 30.0
"""A process that has not reported its probe's outcome after so long loses it, in seconds."""


@dataclass(slots=True)
class Breaker:
    """State of a breaker, shared by all processes."""

    answered: float = 0.0
    """Calls that were lately answered, older ones weighing less."""
    failed: float = 0.0
    """Calls that lately failed, weighed the same way."""
    counted_at_s: float = 0.0
    opened_at_s: float = 0.0
    """Since when it has been open, as far as reports tell."""
    open_until_s: float = 0.0
    """While open: when one call may be sent as a probe."""
    pause_s: float = 0.0
    """Length of the latest pause; 0 while closed."""
    prober: str | None = None
    """The process that sends the probe."""

    @property
    def is_open(self) -> bool:
        """Whether no calls may start, but for a probe."""
        return self.pause_s > 0

    @property
    def is_answered(self) -> bool:
        """Whether a call was answered lately, within half a minute or so."""
        return self.answered >= _NO_ANSWERS

    def outage_s(self, now_s: float) -> float:
        """Return how long it has been open, in seconds; 0 while it is closed."""
        return max(0.001, now_s - self.opened_at_s) if self.is_open else 0.0

    def count(self, answered: int, failed: int, now_s: float, *, away: int = 0) -> None:
        """Count outcomes, and open or close the breaker.

        It opens when most calls fail, at least `FAILURES_TO_OPEN` of them lately; or a few, if they
        found nobody (`away`) and no call was answered. Any answer closes it; a failed probe doubles
        the pause.
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
        elif failed and self._opens(away):
            self.opened_at_s = now_s
            self._open(_FIRST_PAUSE_S, now_s)

    def _opens(self, away: int) -> bool:
        many = self.failed >= FAILURES_TO_OPEN and self.failed > self.answered
        gone = away > 0 and self.failed >= _AWAY_TO_OPEN and not self.is_answered
        return many or gone

    def deny(self, pause_s: float, now_s: float) -> None:
        """Open it because the endpoint takes no requests; a probe that says so prolongs it."""
        if not self.is_open:
            self.opened_at_s = now_s
            self._open(pause_s, now_s)
        elif now_s >= self.open_until_s:
            self._open(max(self.pause_s, pause_s), now_s)

    def weight(self, now_s: float) -> float:
        """Return the weight, up to 1, that the outcomes counted so far have now."""
        return float(0.5 ** (max(0.0, now_s - self.counted_at_s) / _HALF_LIFE_S))

    def close(self) -> None:
        """Let calls start again, and reset the counts."""
        self.answered = self.failed = self.pause_s = self.open_until_s = 0.0
        self.prober = None

    def may_probe(self, owner: str, now_s: float) -> bool:
        """Return whether this process may send a probe now; if so, it is the prober from now on."""
        if now_s < self.open_until_s:
            return False
        lost = now_s >= self.open_until_s + _PROBE_S
        if self.prober is None or lost:
            self.prober, self.open_until_s = owner, now_s
        return self.prober == owner

    def _open(self, pause_s: float, now_s: float) -> None:
        self.pause_s, self.open_until_s, self.prober = pause_s, now_s + pause_s, None
