"""How the calls to an endpoint went since the last report."""

from dataclasses import replace

from routoo.errors import EndpointError, RateLimitedError
from routoo.limits.records import Outcomes

_NOTHING = Outcomes()


class OutcomeTally:
    """Counts outcomes until they are reported."""

    def __init__(self) -> None:
        self._answered = self._failed = self._overloaded = 0
        self._pause_s = 0.0
        self._learnt = _NOTHING

    def answered(self) -> None:
        """Count an answer."""
        self._answered += 1

    def failed(self, error: EndpointError) -> None:
        """Count an error; one that is the request's own fault shows an endpoint that works."""
        self._pause_s = max(self._pause_s, error.retry_after_s or 0.0)
        if isinstance(error, RateLimitedError):
            self._overloaded += 1
        elif error.retryable:
            self._failed += 1
        else:
            self._answered += 1

    def learn(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        """Note limits that the endpoint told."""
        self._learnt = replace(
            self._learnt,
            learnt_requests_per_minute=requests_per_minute
            or self._learnt.learnt_requests_per_minute,
            learnt_tokens_per_minute=tokens_per_minute or self._learnt.learnt_tokens_per_minute,
        )

    def pause(self, pause_s: float) -> None:
        """Note that the endpoint wants to be left alone for so long."""
        self._pause_s = max(self._pause_s, pause_s)

    def take(self) -> Outcomes:
        """Return what was counted, and begin anew."""
        found = replace(
            self._learnt,
            answered=self._answered,
            failed=self._failed,
            overloaded=self._overloaded,
            pause_s=self._pause_s,
        )
        self._answered = self._failed = self._overloaded = 0
        self._pause_s, self._learnt = 0.0, _NOTHING
        return found
