"""Accounts for the single calls of a gateway: money first, then what they came to, in groups."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

import structlog

from producer.gateway.errors import ApiError
from routoo.errors import RoutooError
from routoo.store import single_calls
from routoo.store.database import Database
from routoo.store.keys import KeyRecord
from routoo.store.single_calls import SettledCall

_FLUSH_EVERY_S = 0.05
_RETRY_S = 1.0
_WRITE_OFF_EVERY_S = 600.0
_LONGEST_CALL_S = 7_200.0
"""No call is in flight for longer, so that one as old was left by a gateway that died."""
_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class CallLedger:
    """Reserves and settles; `run` writes what was settled until it is cancelled."""

    database: Database
    _settled: list[SettledCall] = field(default_factory=list)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def reserve(
        self, call_id: UUID, key: KeyRecord | None, model: str, worst_case_usd: Decimal
    ) -> None:
        """Set a call's worst case aside, where its key has a limit.

        Raises:
            ApiError: The key may not spend that much today.
        """
        if key is None or key.limit_usd is None:
            return
        async with self.database.transaction() as conn:
            granted = await single_calls.reserve(conn, call_id, key.id, model, worst_case_usd)
        if not granted:
            raise ApiError(
                429,
                f"A call to {model} may cost {worst_case_usd:.6f} USD, more than the key "
                f"{key.name} may spend today (UTC) beside its other calls. Lower max_tokens, or "
                "wait until tomorrow.",
                code="insufficient_quota",
                kind="insufficient_quota",
            )

    def settle(self, call: SettledCall) -> None:
        """Record how a call ended, soon: nobody waits for it."""
        self._settled.append(call)
        self._wake.set()

    async def run(self) -> None:
        """Write what was settled, in groups; and now and then what dead gateways left."""
        write_off_at_s = 0.0
        while True:
            now_s = asyncio.get_running_loop().time()
            try:
                if now_s >= write_off_at_s:
                    write_off_at_s = now_s + _WRITE_OFF_EVERY_S
                    async with self.database.transaction() as conn:
                        await single_calls.write_off(conn, _LONGEST_CALL_S)
                await self.flush()
            except RoutooError as error:
                _log.warning("gateway.calls_not_settled", reason=str(error))
                await asyncio.sleep(_RETRY_S)
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _WRITE_OFF_EVERY_S)
            self._wake.clear()
            await asyncio.sleep(_FLUSH_EVERY_S)

    async def flush(self) -> None:
        """Write what was settled so far.

        Raises:
            StoreError: The database failed; the calls are kept.
        """
        calls = list(self._settled)
        if not calls:
            return
        async with self.database.transaction() as conn:
            await single_calls.settle(conn, calls)
        del self._settled[: len(calls)]
