"""A budget of retries: answers earn it, retries spend it, so retries can't storm."""

_EARNED_BY_ANSWER = 0.2
_EARNED_A_SECOND = 1.0
"""So that the last calls of a batch are tried again, too."""
_LEAST_CAP = 10.0


class RetryBudget:
    """Of one endpoint in this process.

    In steady state retries are at most a fifth of the answers; while an endpoint answers nothing,
    one a second.

    Args:
        cap: Most that can be saved; at least 10, which is also where it starts.
    """

    def __init__(self, cap: float) -> None:
        self._cap = max(_LEAST_CAP, cap)
        self._saved = _LEAST_CAP

    def earn(self, answers: int, elapsed_s: float) -> None:
        """Take in answers, and the time that has passed."""
        earned = answers * _EARNED_BY_ANSWER + elapsed_s * _EARNED_A_SECOND
        self._saved = min(self._cap, self._saved + earned)

    def repay(self) -> None:
        """Take in that a retry was answered: it was worth its price."""
        self._saved = min(self._cap, self._saved + 1.0)

    @property
    def suffices(self) -> bool:
        """Whether a retry can be paid."""
        return self._saved >= 1.0

    def spend(self) -> None:
        """Pay for a retry."""
        self._saved -= 1.0
