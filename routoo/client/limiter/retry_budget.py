"""A retry budget: answers add to it and retries draw on it, so that retries stay few."""

_PER_ANSWER = 0.2
_PER_SECOND = 1.0
"""Lets the last calls of a batch be retried, too, when few answers come any more."""
_START = 10.0


class RetryBudget:
    """Retries that one endpoint may get from this process.

    In steady state retries are at most a fifth of the answers; while an endpoint answers nothing,
    one per second is possible.

    Args:
        capacity: Most retries that can be saved up; at least 10, which is also where it starts.
    """

    def __init__(self, capacity: float) -> None:
        self._capacity = max(_START, capacity)
        self._saved = _START

    def earn(self, answers: int, elapsed_s: float) -> None:
        """Add what answers, and the time since the last call of this method, are worth."""
        earned = answers * _PER_ANSWER + elapsed_s * _PER_SECOND
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
