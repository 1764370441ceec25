"""The dispatch stage: every pending job of a leased shard gets its one result.

While a shard is dispatched its batch is followed: its state, its plan and its budget.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import KeptAnswer
from routoo.domain.job import BatchStatus, Lease, PendingJob
from routoo.errors import DatabaseUnavailableError
from routoo.pipeline.dispatch.answer import Answerer
from routoo.pipeline.dispatch.fallback import (
    Candidate,
    fallback_money,
    final_filters,
    rank_candidates,
)
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.pipeline.dispatch.hedge import CallLatencies
from routoo.pipeline.dispatch.judging import AnswerJudging
from routoo.pipeline.dispatch.response_cache import ShardCache, take_cached
from routoo.pipeline.dispatch.running_batch import RunningBatch
from routoo.pipeline.judges import JudgeCache
from routoo.pipeline.select.experience import load_experience
from routoo.ports import ChatClient
from routoo.store import assignments, batches, budget, endpoints, jobs, kept_answers
from routoo.store.batches import BatchRecord, replans
from routoo.store.database import Database
from routoo.store.lost_calls import write_off
from routoo.store.shards import Done, WorkOutcome

_POLL_S = 0.5
"""How often a shard's dispatch reads its batch, in seconds."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class DispatchOptions:
    """Limits of a shard's dispatch, and what a process keeps for all of its shards."""

    max_attempts_per_model: int = 4
    time_limit_s: float = 600.0
    """No new call starts after this time; then the shard is handed back, in seconds."""
    replan_wait_s: float = 15.0
    """How long a job whose model takes no calls waits for another plan before it falls back."""
    drain_grace_s: float = 3.0
    """How long calls in flight may go on once the worker is asked to stop, in seconds."""
    judges: JudgeCache = field(default_factory=JudgeCache)
    """Judges of answers."""


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

    Args:
        db: The store.
        client: Calls the endpoints.
        lease: The shard; renewed by the caller.
        batch: The shard's batch.
        options: Limits of attempts and time.
        stop: Set by the caller to drain: no new call starts, those in flight get a grace.

    Returns:
        Done when every job has a result. Handed back when some were left pending: the worker
        drains, the batch was paused or cancelled, or jobs wait for endpoints or money.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    await client.look_again()  # `resume` ends denials, and this shard may be the first to run
    loaded = await _load(db, lease, batch, client.behaviour, options.judges)
    async with GroupCommit(
        db, lease, cache=loaded.cache, alone=loaded.alone, behaviour=client.behaviour
    ) as commit:
        attempts, filters = options.max_attempts_per_model, final_filters(batch)
        running = RunningBatch.of(db, batch, options.replan_wait_s)
        closing = asyncio.Event()
        answerer = Answerer(
            client, commit, closing, attempts, filters, loaded.latencies, batch=running
        )
        answerer.judging, answerer.kept = loaded.judging, loaded.kept
        dispatch = _Dispatch(db, lease, batch, answerer, options, stop)
        try:
            tasks = await dispatch.run(loaded.pending, loaded.revision)
        finally:
            answerer.forget_jobs()
    await log_budget_used(db, batch.id)
    return Done() if tasks.all_answered else answerer.waiting.outcome


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What a dispatch reads of its shard before the first call."""

    pending: list[PendingJob]
    """Jobs without a result; the cache has answered some."""
    cache: ShardCache | None
    revision: int
    """Number of the batch's plan."""
    alone: bool
    """Whether the batch has no duplicates."""
    latencies: CallLatencies
    judging: AnswerJudging
    kept: Mapping[int, Sequence[KeptAnswer]]
    """Answers that are paid and not, or not yet, results, by job number."""


async def _load(
    db: Database, lease: Lease, batch: BatchRecord, behaviour: KnownBehaviour, judges: JudgeCache
) -> _Loaded:
    """Read a shard, after its unsettled calls were written off and its cached answers taken.

    Calls that a crashed owner left unsettled count at their worst case: they may have been billed.
    """
    async with db.transaction() as conn:
        await write_off(conn, lease)
        revision = await replans.latest_revision(conn, batch.id)
        pending = await jobs.pending(conn, lease)
        alone = not await assignments.any_duplicates(conn, batch.id)
        latencies = await _latencies(conn, batch, pending)
        behaviour.update(await endpoints.load_behaviour(conn))
        kept = await kept_answers.load(conn, lease)
        judging = AnswerJudging(batch.pool, await judges.of(conn, batch))
        # A revision may have been made since the batch was read.
        judging.follow(await batches.get(conn, batch.id))
    cache = ShardCache.of(batch.pool, batch.call_options, pending)
    pending = await take_cached(db, lease, cache, pending)
    return _Loaded(pending, cache, revision, alone, latencies, judging, kept)


async def _latencies(
    conn: AsyncConnection, batch: BatchRecord, pending: Sequence[PendingJob]
) -> CallLatencies:
    """Return recent latencies of calls, if a job has a latency limit."""
    if all(job.job.sla.max_latency_s is None for job in pending):
        return CallLatencies()
    known = (await load_experience(conn, batch.pool)).items()
    p95_s = {name: model.latency_p95_s for name, model in known if model.latency_p95_s}
    return CallLatencies(p95_s)


class JobTasks:
    """The jobs of a shard that are being answered, each in a task of its own.

    Args:
        answerer: Answers a job, and knows for which jobs it was admitted to an endpoint.
        group: Owns the tasks: an error of one ends them all, and it ends with the last.
    """

    def __init__(self, answerer: Answerer, group: asyncio.TaskGroup) -> None:
        self._answerer, self._group = answerer, group
        self._tasks: dict[int, asyncio.Task[bool]] = {}
        self._choices: dict[int, tuple[str, bool]] = {}
        """Each job's model, and whether it is asked as a probe."""

    def assign(self, pending: Sequence[PendingJob], ranked: Sequence[Sequence[Candidate]]) -> int:
        """Start jobs, and restart those that wait for a call to another model than planned now.

        A job that was admitted to an endpoint keeps its model, so that no job is called for twice.

        Args:
            pending: Jobs without a result.
            ranked: The candidates of each job in the order in which they are asked.

        Returns:
            How many jobs were restarted.
        """
        moved = 0
        if self._answerer.closing.is_set():
            return moved
        for job, candidates in zip(pending, ranked, strict=True):
            number, task = job.job.job_no, self._tasks.get(job.job.job_no)
            if task is not None:
                settled = task.done() or number in self._answerer.busy
                if settled or self._choices[number] == (job.model, job.probe):
                    continue
                task.cancel()  # it waits in a queue, and has nothing reserved
                moved += 1
            self._choices[number] = job.model, job.probe
            self._answerer.waiting.begin(number)
            self._tasks[number] = self._group.create_task(self._answerer.answer(job, candidates))
        return moved

    @property
    def all_answered(self) -> bool:
        """Whether every job has its result; to be read once the group has ended."""
        return all(not task.cancelled() and task.result() for task in self._tasks.values())

    def cancel(self) -> None:
        """Cancel the tasks that have not ended."""
        for task in self._tasks.values():
            task.cancel()


@dataclass(frozen=True, slots=True)
class _Dispatch:
    """One leased shard while its jobs are being answered."""

    db: Database
    lease: Lease
    batch: BatchRecord
    answerer: Answerer
    options: DispatchOptions
    stop: asyncio.Event

    async def run(self, pending: Sequence[PendingJob], revision: int) -> JobTasks:
        """Answer jobs until each has ended, while the batch and the clock are watched."""
        try:
            async with asyncio.TaskGroup() as watchers:
                async with asyncio.TaskGroup() as group:
                    tasks = JobTasks(self.answerer, group)
                    self._assign(tasks, self.batch, pending)
                    watching = (
                        watchers.create_task(self._follow_batch(tasks, revision)),
                        watchers.create_task(self._watch_clock(tasks)),
                        watchers.create_task(self.answerer.waiting.end_starts()),
                    )
                for watch in watching:
                    watch.cancel()
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from group_error
        return tasks

    async def _follow_batch(self, tasks: JobTasks, revision: int) -> None:
        """Follow the batch; if it is cancelled, end what is not in flight at once."""
        on_revision, closing = partial(self._follow_plan, tasks), self.answerer.closing
        status = await follow_batch(self.db, self.batch.id, revision, closing, on_revision)
        if status is BatchStatus.CANCELLING:
            self.answerer.waiting.cancel_left()

    async def _follow_plan(self, tasks: JobTasks) -> None:
        """Assign the newest plan's models to the jobs that wait for their first call."""
        async with self.db.transaction() as conn:
            batch = await batches.get(conn, self.lease.key.batch_id)
            pending = await jobs.pending(conn, self.lease)
        if self.answerer.judging is not None:
            self.answerer.judging.follow(batch)
        self._assign(tasks, batch, pending)

    def _assign(self, tasks: JobTasks, batch: BatchRecord, pending: Sequence[PendingJob]) -> None:
        """Start or move jobs; keep money for the cheapest call of each."""
        ranked = rank_candidates(batch, pending)
        tasks.assign(pending, ranked)
        kept_usd = fallback_money(batch, pending, ranked)
        if kept_usd is not None:
            self.answerer.commit.keep_fallback(kept_usd)

    async def _watch_clock(self, tasks: JobTasks) -> None:
        """Close the shard when its time is up; cancel calls that outlast the grace of a drain."""
        closing = self.answerer.closing
        try:
            async with asyncio.timeout(self.options.time_limit_s):
                await self.stop.wait()
        except TimeoutError:
            closing.set()
            await self.stop.wait()
        closing.set()
        await asyncio.sleep(self.options.drain_grace_s)
        tasks.cancel()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def follow_batch(
    db: Database,
    batch_id: UUID,
    revision: int,
    closing: asyncio.Event,
    on_revision: Callable[[], Awaitable[object]],
) -> BatchStatus:
    """Poll a batch until its dispatch closes.

    A poll is three small queries. So a cancelled batch makes its last call well within two seconds,
    and the first dispatcher that sees a share of the budget used up logs it.

    Args:
        db: The store.
        batch_id: The batch.
        revision: Number of the plan that the dispatch follows.
        closing: Is set once the batch is paused, cancelled or failed.
        on_revision: Awaited whenever the batch has a newer plan.

    Returns:
        The batch's state when it was read last.

    Raises:
        StoreError: The batch can't be read.
    """
    status = BatchStatus.IN_PROGRESS
    while not closing.is_set():
        # While the database is away no call is sent, since none can be reserved.
        with suppress(DatabaseUnavailableError):
            async with db.transaction() as conn:
                status = await batches.status(conn, batch_id)
                latest = await replans.latest_revision(conn, batch_id)
            if status is not BatchStatus.IN_PROGRESS:
                closing.set()
            elif latest != revision:
                await on_revision()
                revision = latest
            await log_budget_used(db, batch_id)
        with suppress(TimeoutError):
            await asyncio.wait_for(closing.wait(), _POLL_S)
    return status


async def log_budget_used(db: Database, batch_id: UUID) -> None:
    """Log which shares of its budget a batch has used up, each once for the whole batch.

    Raises:
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        percents = await budget.note_warnings(conn, batch_id)
    for percent in percents:
        _log.warning("batch.budget_used", batch=str(batch_id), percent=percent)
