"""One shard, from its message to its hand-over: claim, work, complete."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from routoo.domain.job import Lease, ShardKey, Stage
from routoo.errors import (
    CheckpointError,
    ConfigError,
    DatabaseUnavailableError,
    InfeasibleError,
    InputError,
    NotFoundError,
    StaleLeaseError,
    StoreError,
)
from routoo.pipeline.lease import Renewal, work_under_lease
from routoo.settings import Settings
from routoo.store import batches, shards
from routoo.store.batches import BatchRecord, control
from routoo.store.database import Database

Work = Callable[[Lease, BatchRecord], Awaitable[bool]]
"""A stage: True when the shard is done, False when a part of it was left for later."""
_NEXT = {Stage.SCORE: Stage.SELECT, Stage.SELECT: Stage.DISPATCH}
_PERMANENT = (CheckpointError, ConfigError, InfeasibleError, InputError)
"""Errors that a retry can't help: the batch fails at once."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What is left to do once a shard was looked at."""

    announce: Sequence[ShardKey] = ()
    """Shards that became ready."""
    requeue: bool = False
    """The worker stops with the shard unfinished: the message goes back to the broker."""


@dataclass(frozen=True, slots=True)
class StageWork:
    """How a worker does one stage."""

    work: Work
    grace_s: float = 0.0
    """How long it may go on after the worker was asked to stop, in seconds."""


@dataclass(frozen=True, slots=True)
class ShardWorker:
    """Works on one shard after the other; any number at once."""

    db: Database
    settings: Settings
    owner: str
    """Name of this worker in leases, unique among all workers."""
    stages: Mapping[Stage, StageWork]
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, key: ShardKey) -> ShardOutcome:
        """Do a shard's stage if it is due, and say what follows.

        Every failure ends here: it is logged, and the shard is left to the recovery tick, retried
        or parked.
        """
        if self.stop.is_set():
            return ShardOutcome(requeue=True)
        try:
            claimed = await self._claim(key)
            return await self._work(*claimed) if claimed else ShardOutcome()
        except DatabaseUnavailableError as error:
            # The lease runs out by itself and the recovery tick announces the shard again.
            _log.warning("shard.left", **_fields(key), reason=str(error))
            return ShardOutcome()

    async def _claim(self, key: ShardKey) -> tuple[Lease, BatchRecord] | None:
        try:
            async with self.db.transaction() as conn:
                batch = await batches.get(conn, key.batch_id)
                if batch.status.is_over:
                    return None
                lease = await shards.claim(conn, key, self.owner, self.settings.lease_s)
        except NotFoundError:
            _log.warning("shard.unknown", **_fields(key))
            return None
        return (lease, batch) if lease else None

    async def _work(self, lease: Lease, batch: BatchRecord) -> ShardOutcome:
        stage = self.stages[lease.key.stage]
        renewal = Renewal(self.db, self.settings.lease_s, self.stop)
        log = _log.bind(**_fields(lease.key), epoch=lease.epoch)
        log.info("shard.started", jobs=lease.job_count)
        try:
            work = _as_coroutine(stage.work, lease, batch)
            done = await work_under_lease(renewal, lease, work, grace_s=stage.grace_s)
            outcome = await self._complete(lease) if done else await self._hand_back(lease)
            log.info("shard.done" if done else "shard.handed_back")
        except StaleLeaseError:
            log.warning("shard.lost")
            return ShardOutcome()
        except DatabaseUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - the task boundary: a shard's error is its own
            await self._fail(lease, error)
            return ShardOutcome()
        return outcome

    async def _complete(self, lease: Lease) -> ShardOutcome:
        key = lease.key
        async with self.db.transaction() as conn:
            await shards.complete(conn, lease)
            ready = await shards.ready_keys(conn, key.batch_id)
        await self._settle_cancelled(key.batch_id)
        return ShardOutcome([other for other in ready if other.stage is _NEXT.get(key.stage)])

    async def _hand_back(self, lease: Lease) -> ShardOutcome:
        async with self.db.transaction() as conn:
            await shards.release(conn, lease, count_attempt=False)
        await self._settle_cancelled(lease.key.batch_id)
        stopping = self.stop.is_set()
        return ShardOutcome(announce=() if stopping else (lease.key,), requeue=stopping)

    async def _settle_cancelled(self, batch_id: UUID) -> None:
        """End the batch where it was cancelled and this was its last shard at work."""
        async with self.db.transaction() as conn:
            await control.settle_cancelled(conn, batch_id)

    async def _fail(self, lease: Lease, error: Exception) -> None:
        permanent = isinstance(error, _PERMANENT)
        tries = 0 if permanent else self.settings.max_shard_attempts
        _log.error(
            "shard.failed", **_fields(lease.key), permanent=permanent, error=_text(error),
            exc_info=not isinstance(error, (*_PERMANENT, StoreError)),
        )  # fmt: skip
        try:
            async with self.db.transaction() as conn:
                await shards.fail(conn, lease, _text(error), tries)
        except StaleLeaseError:
            _log.warning("shard.lost", **_fields(lease.key))


async def _as_coroutine(work: Work, lease: Lease, batch: BatchRecord) -> bool:
    return await work(lease, batch)


def _fields(key: ShardKey) -> dict[str, object]:
    return {"batch": str(key.batch_id), "stage": key.stage.value, "shard": key.shard_no}


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
