"""The dispatch stage: every pending job of a leased shard gets its one result."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from routoo.domain.job import Lease, PendingJob
from routoo.domain.pool import CandidateModel
from routoo.pipeline.answer import Answerer
from routoo.pipeline.books import Books
from routoo.pipeline.fallback import rank_candidates
from routoo.ports import ChatClient
from routoo.store import jobs, ledger
from routoo.store.batches import BatchRecord
from routoo.store.database import Database


@dataclass(frozen=True, slots=True)
class DispatchOptions:
    """How patiently a shard is dispatched."""

    max_attempts_per_model: int = 4
    time_limit_s: float = 600.0
    """No new call starts after this long; the shard is handed back."""
    drain_grace_s: float = 3.0
    """How long calls in flight may go on once the worker is asked to stop."""


async def dispatch_shard(
    db: Database,
    client: ChatClient,
    lease: Lease,
    batch: BatchRecord,
    *,
    options: DispatchOptions,
    stop: asyncio.Event,
) -> bool:
    """Call the chosen models for every pending job of a shard.

    Calls that a crashed owner of the shard left unsettled are first written off at their worst
    case: they may have been billed.

    Args:
        db: The store.
        client: The endpoints.
        lease: The shard; renewed by the caller.
        batch: The shard's batch.
        options: Limits of patience.
        stop: Set by the caller to drain: no new call starts, those in flight get a grace.

    Returns:
        True when every job of the shard has a result, False when some were left pending.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        await ledger.write_off(conn, lease)
        pending = await jobs.pending(conn, lease)
    ranked = rank_candidates(batch, pending)
    closing = asyncio.Event()
    async with Books(db, lease) as books:
        answerer = Answerer(client, books, closing, options.max_attempts_per_model)
        try:
            return await _answer_all(answerer, pending, ranked, options, stop)
        except BaseExceptionGroup as group:
            raise _first(group) from group


async def _answer_all(
    answerer: Answerer,
    pending: Sequence[PendingJob],
    ranked: Sequence[Sequence[CandidateModel]],
    options: DispatchOptions,
    stop: asyncio.Event,
) -> bool:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(answerer.answer(job, candidates))
            for job, candidates in zip(pending, ranked, strict=True)
        ]
        watch = asyncio.create_task(_watch(answerer.closing, tasks, options, stop))
        try:
            await asyncio.wait(tasks) if tasks else None
        finally:
            watch.cancel()
    return all(not task.cancelled() and task.result() for task in tasks)


async def _watch(
    closing: asyncio.Event,
    tasks: Sequence[asyncio.Task[bool]],
    options: DispatchOptions,
    stop: asyncio.Event,
) -> None:
    """Close the shard when its time is up, and cancel what outlasts the grace of a drain."""
    try:
        async with asyncio.timeout(options.time_limit_s):
            await stop.wait()
    except TimeoutError:
        closing.set()
        await stop.wait()
    closing.set()
    await asyncio.sleep(options.drain_grace_s)
    for task in tasks:
        task.cancel()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
