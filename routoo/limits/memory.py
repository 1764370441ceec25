"""Accounts of one process that shares its endpoints with no other of ours."""

import time
from collections.abc import Callable, Sequence

from routoo.limits.account import WINDOW_S, Account
from routoo.limits.records import Grant, Report


class MemoryLimits:
    """Implements `routoo.ports.SharedLimits` without sharing.

    Args:
        span_s: Length of the window that the rates hold in, in seconds.
        now_s: The clock.
    """

    def __init__(
        self, *, span_s: float = WINDOW_S, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._span_s, self._now_s = span_s, now_s
        self._accounts: dict[str, Account] = {}

    async def exchange(self, reports: Sequence[Report]) -> list[Grant]:
        """Take reports in, and say for each what its process may do next."""
        return [
            self._accounts.setdefault(report.endpoint, Account(self._span_s)).answer(
                report, self._now_s()
            )
            for report in reports
        ]
