"""The dispatch stage: every pending job of a leased shard gets its one result."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from psycopg import AsyncConnection

from routoo.domain.job import Lease, PendingJob
from routoo.pipeline.dispatch.answer import Answerer
from routoo.pipeline.dispatch.content_filter import final_filters
from routoo.pipeline.dispatch.fallback import rank_candidates
from routoo.pipeline.dispatch.follow_batch import Control, follow_batch, warn_of_budget
from routoo.pipeline.dispatch.group_commit import Books
from routoo.pipeline.dispatch.hedge import Latencies
from routoo.pipeline.dispatch.response_cache import ShardCache, serve
from routoo.pipeline.dispatch.roster import Roster
from routoo.pipeline.select.experience import load_experience
from routoo.ports import ChatClient
from routoo.store import assignments, batches, jobs
from routoo.store.batches import BatchRecord, replans
from routoo.store.database import Database
from routoo.store.ledger import write_off
from routoo.store.shards import Done, HandedBack, WorkOutcome

_PUT_OFF_S = 5.0
"""A shard whose jobs were put off is handed out again after so long, in seconds."""


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
) -> WorkOutcome:
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
        Done when every job of the shard has a result. Handed back when some were left pending: the
        worker drains, the batch was paused or cancelled, or they wait for endpoints or for money
        that others must free first; then with a wait of a few seconds.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        await write_off(conn, lease)
        revision = await replans.latest_revision(conn, batch.id)
        pending = await jobs.pending(conn, lease)
        alone = not await assignments.any_duplicates(conn, batch.id)
        latencies = await _latencies(conn, batch, pending)
    cache = ShardCache.of(batch.pool, batch.call_options, pending)
    pending = await serve(db, lease, cache, pending)
    closing = asyncio.Event()
    async with Books(db, lease, cache=cache, alone=alone) as books:
        answerer = Answerer(
            client,
            books,
            closing,
            options.max_attempts_per_model,
            final_filters=final_filters(batch),
            latencies=latencies,
        )
        try:
            async with asyncio.TaskGroup() as watchers:
                async with asyncio.TaskGroup() as group:
                    roster = Roster(answerer, group)
                    roster.assign(pending, rank_candidates(batch, pending))
                    control = Control(closing, revision, partial(_follow_plan, db, lease, roster))
                    watching = (
                        watchers.create_task(follow_batch(db, batch.id, control)),
                        watchers.create_task(_watch(closing, roster, options, stop)),
                    )
                for watch in watching:
                    watch.cancel()
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from group_error
    await warn_of_budget(db, batch.id)
    if roster.all_answered:
        return Done()
    return HandedBack(_PUT_OFF_S if answerer.put_off and not closing.is_set() else None)


async def _latencies(
    conn: AsyncConnection, batch: BatchRecord, pending: Sequence[PendingJob]
) -> Latencies:
    """Return how long calls take, where a job wants to know."""
    if all(job.job.sla.max_latency_s is None for job in pending):
        return Latencies()
    known = (await load_experience(conn, batch.pool)).items()
    return Latencies({name: model.latency_p95_s for name, model in known if model.latency_p95_s})


async def _follow_plan(db: Database, lease: Lease, roster: Roster) -> None:
    """Give the jobs that still wait the models of the plan that holds now."""
    async with db.transaction() as conn:
        batch = await batches.get(conn, lease.key.batch_id)
        pending = await jobs.pending(conn, lease)
    roster.assign(pending, rank_candidates(batch, pending))


async def _watch(
    closing: asyncio.Event, roster: Roster, options: DispatchOptions, stop: asyncio.Event
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
    roster.cancel()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
