"""Works on one shard: claims it, runs its stage while the lease is renewed, and ends the lease."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from routoo.domain.job import BatchStatus, Lease, ShardKey, Stage
from routoo.errors import (
    CheckpointError,
    ConfigError,
    DatabaseUnavailableError,
    InfeasibleError,
    InputError,
    NotFoundError,
    StaleLeaseError,
    StoreError,
    UnreadableRecordError,
)
from routoo.store import batches, leases, put_off, shards
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database
from routoo.store.shards import Done, Failed, HandedBack, WorkOutcome
from routoo.tracing import note, span, trace_batch

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Work = Callable[[Lease, BatchRecord], Coroutine[Any, Any, WorkOutcome]]
"""A stage: returns whether the shard is done, or a part of it was left for later."""
_PERMANENT = (CheckpointError, ConfigError, InfeasibleError, InputError)
"""Errors that a retry can't help: the batch fails at once."""
_RENEWALS_PER_LEASE = 3
_SUSPECT_ATTEMPTS = 3
"""A shard that was claimed so often without progress may end its workers: no two of them at once,
or one would be blamed for the other."""
_SUSPECT_WAIT_S = 1.0
SLOW_AFTER_S = 10.0
"""A dispatch shard that takes longer holds no thread of its worker any more, in seconds."""
_CANCEL_AGAIN_S = 5.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HandledMessage:
    """What the caller has to publish once a message was handled."""

    publish: Sequence[ShardKey] = ()
    """Shards that a worker may take now: each needs a message."""


@dataclass(frozen=True, slots=True)
class StageWork:
    """How a worker does one stage."""

    work: Work
    grace_s: float = 0.0
    """How long it may go on after the worker was asked to stop, in seconds."""


@dataclass(frozen=True, slots=True)
class ShardWorker:
    """Handles messages that name a shard; any number of them at once."""

    db: Database
    owner: str
    """Name of this worker in leases, unique among all workers."""
    stages: Mapping[Stage, StageWork]
    lease_s: float
    """How long a lease holds without a renewal, in seconds."""
    max_failures: int
    """Failures of a shard, without progress between them, after which it is split."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the worker is asked to stop."""
    most_slow: int = 0
    """Dispatch shards that may go on without a thread at once, where `take_urgent` runs."""
    slow_after_s: float = SLOW_AFTER_S
    """A dispatch shard goes on without its thread after so long, in seconds."""
    _suspects: set[ShardKey] = field(default_factory=set)
    """Shards at work that may end this process."""
    _slow: set[asyncio.Task[HandledMessage]] = field(default_factory=set)
    """The work on shards that hold no thread any more."""

    async def handle(self, key: ShardKey) -> HandledMessage:
        """Do a shard's stage if it is due; first that of one whose worker left it behind.

        Every failure ends here: it is logged, and the shard is retried, split, parked, or left to
        the recovery tick. A dispatch shard that is slow goes on, under its lease, when this has
        returned.

        Returns:
            What is left to do with the task queue.
        """
        if self.stop.is_set():
            return HandledMessage([key])
        try:
            left = await self._abandoned(key.stage)
            if left is not None and left != key and (taken := await self._claim(left)):
                handled = await self._work_until_slow(*taken)
                return HandledMessage([*handled.publish, key])
            claimed = await self._claim(key)
            return await self._work_until_slow(*claimed) if claimed else HandledMessage()
        except DatabaseUnavailableError as error:
            # The lease expires by itself, and then another worker takes the shard.
            _log.warning("shard.left", **_fields(key), reason=str(error))
            return HandledMessage()

    async def take_urgent(
        self,
        publish: Callable[[Sequence[ShardKey]], None],
        *,
        stages: Collection[Stage],
        most: int,
        interval_s: float,
    ) -> None:
        """Take shards that must not wait for their turn in the queue, until the worker stops.

        They hold no thread: so selections, shards of dead workers, and batches whose endpoint works
        go on though every thread waits for another endpoint.

        Those that were put off become due here, and what follows slow shards is published.

        Args:
            publish: Publishes messages; is called in a thread.
            stages: The stages to look at.
            most: Shards worked on at once that were left behind; as many others.
            interval_s: Time between two looks, in seconds.
        """
        # Apart: no number of waiting batches keeps a shard that was left behind from being taken.
        left: set[asyncio.Task[None]] = set()
        others: set[asyncio.Task[None]] = set()

        def forget(task: asyncio.Task[None]) -> None:
            left.discard(task)
            others.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                _log.error("shard.not_taken", exc_info=error)

        while not self.stop.is_set():
            await self._end_slow(publish)
            if Stage.DISPATCH in stages and (due := await self._make_due()):
                await asyncio.to_thread(publish, due)
            found = await self._urgent(stages, most - len(left), most - len(others))
            for taken, keys in zip((left, others), found, strict=True):
                for key in keys:
                    task = asyncio.create_task(self._take(key, publish))
                    taken.add(task)
                    task.add_done_callback(forget)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), interval_s)
        await asyncio.gather(*left, *others, *self._slow, return_exceptions=True)
        await self._end_slow(publish)

    async def _work_until_slow(self, lease: Lease, batch: BatchRecord) -> HandledMessage:
        """Work on a shard; let a slow one go on by itself: its calls wait for an endpoint."""
        work = asyncio.create_task(self._work(lease, batch))
        try:
            is_call = lease.key.stage is Stage.DISPATCH
            await asyncio.wait({work}, timeout=self.slow_after_s if is_call else None)
            # While the worker drains nobody counts the slow ones any more: this is to wait.
            has_room = len(self._slow) < self.most_slow and not self.stop.is_set()
            if has_room and not work.done():
                self._slow.add(work)
                return HandledMessage()
            return await work
        finally:
            if work not in self._slow:
                await _cancel(work)

    async def _end_slow(self, publish: Callable[[Sequence[ShardKey]], None]) -> None:
        """Publish what follows the slow shards on which no work goes on any more."""
        follow = list[ShardKey]()
        for work in [work for work in self._slow if work.done()]:
            self._slow.discard(work)
            try:
                follow += work.result().publish
            except StoreError as error:
                _log.warning("shard.left", reason=str(error))
            except Exception as error:  # noqa: BLE001 - such as of a batch that was deleted
                _log.error("shard.not_ended", exc_info=error)
        if follow:  # at once: each publication may wait for a broker that is away
            await asyncio.to_thread(publish, follow)

    async def _take(self, key: ShardKey, publish: Callable[[Sequence[ShardKey]], None]) -> None:
        try:
            claimed = await self._claim(key)
            handled = await self._work_until_slow(*claimed) if claimed else HandledMessage()
        except StoreError as error:
            _log.warning("shard.left", **_fields(key), reason=str(error))
        else:
            await asyncio.to_thread(publish, handled.publish)

    async def _abandoned(self, stage: Stage) -> ShardKey | None:
        async with self.db.transaction() as conn:
            return await leases.abandoned(conn, stage)

    async def _make_due(self) -> list[ShardKey]:
        try:
            async with self.db.transaction() as conn:
                return await put_off.make_due(conn)
        except StoreError as error:
            _log.warning("shards.not_made_due", reason=str(error))
            return []

    async def _urgent(
        self, stages: Collection[Stage], left: int, others: int
    ) -> tuple[list[ShardKey], list[ShardKey]]:
        if left + others < 1:
            return [], []
        try:
            async with self.db.transaction() as conn:
                return await leases.urgent(conn, stages, left=left, others=others)
        except StoreError as error:
            _log.warning("shards.not_looked_for", reason=str(error))
            return [], []

    async def _claim(self, key: ShardKey) -> tuple[Lease, BatchRecord] | None:
        try:
            async with self.db.transaction() as conn:
                batch = await batches.get(conn, key.batch_id)
                if batch.status.is_over and batch.status is not BatchStatus.FAILED:
                    return None
                lease = await leases.claim(conn, key, self.owner, self.lease_s)
        except NotFoundError:
            _log.warning("shard.unknown", **_fields(key))
            return None
        except UnreadableRecordError as error:
            # Not claimed, so nothing counts against it: a newer worker does it.
            _log.warning("shard.unreadable", **_fields(key), reason=str(error))
            return None
        if lease is not None and lease.attempts >= _SUSPECT_ATTEMPTS and self._suspects:
            await self._finish(lease, batch, HandedBack(_SUSPECT_WAIT_S))
            return None
        return (lease, batch) if lease else None

    async def _work(self, lease: Lease, batch: BatchRecord) -> HandledMessage:
        log = _log.bind(**_fields(lease.key), epoch=lease.epoch)
        log.info("shard.started", jobs=lease.job_count)
        if lease.attempts >= _SUSPECT_ATTEMPTS:
            self._suspects.add(lease.key)
        try:
            with _span(lease) as traced:
                outcome = await self._run_stage(lease, batch)
                follows = await self._finish(lease, batch, outcome)
                note(traced, outcome="done" if isinstance(outcome, Done) else "handed_back")
            log.info("shard.done" if isinstance(outcome, Done) else "shard.released")
        except StaleLeaseError:
            log.warning("shard.lost")
            return HandledMessage()
        except DatabaseUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - the task boundary: a shard's error is its own
            await self._fail(lease, batch, error)
            return HandledMessage()
        finally:
            self._suspects.discard(lease.key)
        return follows

    async def _run_stage(self, lease: Lease, batch: BatchRecord) -> WorkOutcome:
        stage = self.stages[lease.key.stage]
        work = stage.work(lease, batch)
        return await work_under_lease(
            self.db, lease, work, lease_s=self.lease_s, stop=self.stop, grace_s=stage.grace_s
        )

    async def _finish(
        self, lease: Lease, batch: BatchRecord, outcome: WorkOutcome
    ) -> HandledMessage:
        async with self.db.transaction() as conn:
            finished = await shards.finish(conn, lease, outcome)
        ended = BatchStatus.FAILED if finished.parked else finished.ended
        if ended is not None:
            trace_batch(batch.id, batch.created_at, jobs=batch.job_count, status=ended.value)
        return HandledMessage(list(finished.ready))

    async def _fail(self, lease: Lease, batch: BatchRecord, error: Exception) -> None:
        permanent = isinstance(error, _PERMANENT)
        _log.error(
            "shard.failed", **_fields(lease.key), permanent=permanent, error=_text(error),
            exc_info=not isinstance(error, (*_PERMANENT, StoreError)),
        )  # fmt: skip
        try:
            await self._finish(lease, batch, Failed(_text(error), permanent=permanent))
        except StaleLeaseError:
            _log.warning("shard.lost", **_fields(lease.key))


async def work_under_lease(
    db: Database,
    lease: Lease,
    work: Coroutine[Any, Any, WorkOutcome],
    *,
    lease_s: float,
    stop: asyncio.Event,
    grace_s: float,
) -> WorkOutcome:
    """Await the work while its lease is renewed.

    Args:
        db: Where the lease is.
        lease: The lease, just claimed.
        work: The stage; cancelled when the lease is lost or the grace of a stop is over.
        lease_s: How long the lease holds without a renewal, in seconds.
        stop: Set when the worker is asked to stop.
        grace_s: How long the work may go on after that, in seconds.

    Returns:
        What the work returned; handed back when it was cancelled because the worker stops.

    Raises:
        StaleLeaseError: Another worker may own the shard now.
    """
    task = asyncio.create_task(work)
    renewing = asyncio.create_task(_renew_until_lost(db, lease, lease_s))
    stopped = asyncio.create_task(_grace_after_stop(stop, grace_s))
    try:
        await asyncio.wait({task, renewing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if renewing.done():
            renewing.result()
        return HandedBack()
    finally:
        await _cancel(task, renewing, stopped)


async def _renew_until_lost(db: Database, lease: Lease, lease_s: float) -> None:
    renewed_at = time.monotonic()
    while True:
        await asyncio.sleep(lease_s / _RENEWALS_PER_LEASE)
        try:
            async with db.transaction() as conn:
                await leases.renew(conn, lease, lease_s)
            renewed_at = time.monotonic()
        except DatabaseUnavailableError as error:
            if time.monotonic() - renewed_at > lease_s:
                raise StaleLeaseError("the lease ran out while the database was away") from error
            _log.warning("lease.not_renewed", shard=lease.key.shard_no, reason=str(error))


async def _grace_after_stop(stop: asyncio.Event, grace_s: float) -> None:
    await stop.wait()
    await asyncio.sleep(grace_s)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks until they have ended: a cancellation may be lost on its way (cpython#86296)."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        ended, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)
        for task in ended:
            if not task.cancelled():
                task.exception()  # looked at: who awaits the work has it


def _span(lease: Lease) -> "AbstractContextManager[Span | None]":
    """Trace the work on a shard."""
    key = lease.key
    facts = {"shard": key.shard_no, "jobs": lease.job_count, "epoch": lease.epoch}
    return span(f"{key.stage.value} shard", key.batch_id, **facts, attempt=lease.attempts)


def _fields(key: ShardKey) -> dict[str, object]:
    return {"batch": str(key.batch_id), "stage": key.stage.value, "shard": key.shard_no}


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
