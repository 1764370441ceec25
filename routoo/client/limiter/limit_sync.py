"""Keeps the gates of a process supplied from the shared accounts."""

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection

import structlog

from routoo.client.limiter.endpoint_limiter import Gate
from routoo.errors import StoreError
from routoo.ports import SharedLimits

_LEAST_INTERVAL_S = 0.02
_RETRY_S = 1.0
_log = structlog.get_logger(__name__)


class Keeper:
    """Exchanges reports for grants, in one round for all gates that are due.

    Args:
        limits: The shared accounts.
        gates: The gates, as they are when a round begins.
    """

    def __init__(self, limits: SharedLimits, gates: Callable[[], Collection[Gate]]) -> None:
        self._limits, self._gates = limits, gates
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Have a look at once: a call waits."""
        self._wake.set()

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            try:
                await self._round()
            except Exception:  # noqa: BLE001 - a task of its own: if it ended, all calls would wait
                _log.exception("limits.failed")
                await asyncio.sleep(_RETRY_S)

    async def _round(self) -> None:
        now_s = asyncio.get_running_loop().time
        self._wake.clear()
        due = [gate for gate in self._gates() if self._due_at_s(gate) <= now_s()]
        if due:
            await self._exchange(due)
            await asyncio.sleep(_LEAST_INTERVAL_S)
        next_s = min(map(self._due_at_s, self._gates()), default=math.inf)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(None if next_s == math.inf else next_s):
                await self._wake.wait()

    async def close(self) -> None:
        """Give every place back: other processes need not wait for the leases to end."""
        seated = [gate for gate in self._gates() if gate.due_at_s is not None]
        if seated:
            await self._exchange(seated)

    @staticmethod
    def _due_at_s(gate: Gate) -> float:
        return math.inf if gate.due_at_s is None else gate.due_at_s

    async def _exchange(self, due: Collection[Gate]) -> None:
        try:
            grants = await self._limits.exchange([gate.report() for gate in due])
        except StoreError as error:
            # Places are leased: they run out, and no call starts until the next round.
            _log.warning("limits.not_renewed", reason=str(error))
            await asyncio.sleep(_RETRY_S)
            return
        for gate, grant in zip(due, grants, strict=True):
            gate.accept(grant)
