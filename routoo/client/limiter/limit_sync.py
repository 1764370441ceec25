"""Keeps the limiters of a process in exchange with the shared accounts of their endpoints."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection

import structlog

from routoo.client.limiter.endpoint_limiter import EndpointLimiter
from routoo.errors import StoreError
from routoo.ports import SharedLimits

_LEAST_INTERVAL_S = 0.02
_RETRY_S = 1.0
_log = structlog.get_logger(__name__)


class LimitSync:
    """Exchanges reports for grants, in one request for all limiters whose report is due.

    Args:
        limits: The shared accounts.
        limiters: Returns the limiters that there are.
    """

    def __init__(
        self, limits: SharedLimits, limiters: Callable[[], Collection[EndpointLimiter]]
    ) -> None:
        self._limits, self._limiters = limits, limiters
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look for due reports at once, because a call waits."""
        self._wake.set()

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            try:
                await self._round()
            except Exception:  # noqa: BLE001 - if this task ended, all calls would wait for ever
                _log.exception("limits.failed")
                await asyncio.sleep(_RETRY_S)

    async def _round(self) -> None:
        now_s = asyncio.get_running_loop().time
        self._wake.clear()
        due = [limiter for limiter in self._limiters() if self._due_at_s(limiter) <= now_s()]
        if due:
            await self._exchange(due)
            await asyncio.sleep(_LEAST_INTERVAL_S)
        next_s = min(map(self._due_at_s, self._limiters()), default=math.inf)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(None if next_s == math.inf else next_s):
                await self._wake.wait()

    async def close(self) -> None:
        """Give every slot back, so that other processes need not wait for the leases to expire."""
        holding = [limiter for limiter in self._limiters() if limiter.due_at_s is not None]
        if holding:
            await self._exchange(holding)

    @staticmethod
    def _due_at_s(limiter: EndpointLimiter) -> float:
        return math.inf if limiter.due_at_s is None else limiter.due_at_s

    async def _exchange(self, due: Collection[EndpointLimiter]) -> None:
        try:
            grants = await self._limits.exchange([limiter.report() for limiter in due])
        except StoreError as error:
            # Slots are leased: they expire, and no call starts before the next exchange.
            _log.warning("limits.not_renewed", reason=str(error))
            await asyncio.sleep(_RETRY_S)
            return
        for limiter, grant in zip(due, grants, strict=True):
            limiter.accept(grant)
