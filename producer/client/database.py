"""Runs the client's batches by the database, as the commands do."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, aclosing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from producer.aims import read_budget, read_limits, read_objective
from producer.client.backend import BatchState, Plan, Result, Submitted
from producer.client.options import (
    BatchOptions,
    Rows,
    as_texts,
    label,
    rules_of,
    source_of,
    webhooks_of,
)
from producer.control import (
    await_plan,
    cancel_batch,
    pause_batch,
    resume_batch,
    retry_batch,
    submit_plan,
)
from producer.local_stack import LocalStack
from producer.pool_check import check_pool
from producer.progress import Snapshot, find_batch, take_snapshot
from producer.queue import try_to_publish
from producer.results.follow import follow_results
from producer.rows.limits import read_on_unavailable
from producer.submit import BatchRequest, Submission, submit
from routoo.console.run import usable_database
from routoo.domain.batch_options import CallOptions, OnUnavailable
from routoo.domain.job import BatchStatus, Stage
from routoo.domain.pool import Pool
from routoo.domain.pool_file import load_pool
from routoo.errors import InputError
from routoo.settings import Settings
from routoo.store import batches
from routoo.store.batches import retry
from routoo.store.database import Database, check_reachable
from routoo.store.results import ResultRecord

_CONNECTIONS = 4


class DatabaseBackend:
    """Implements `Backend` by the database that the settings name.

    Args:
        settings: Those of the deployment.
        start_workers: Whether the stack of this machine is started where no worker lives, and
            stopped again by `close`.
    """

    def __init__(self, settings: Settings, *, start_workers: bool) -> None:
        self._settings, self._start_workers = settings, start_workers
        self._servers, self._exits = ExitStack(), AsyncExitStack()
        self._stack = LocalStack(settings)
        self._keeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start what is embedded, and connect."""
        # Starting servers and migrating block.
        url = await asyncio.to_thread(self._servers.enter_context, usable_database(self._settings))
        try:
            await check_reachable(url)
            self._db = await self._exits.enter_async_context(Database(url, max_size=_CONNECTIONS))
        except BaseException:
            self._servers.close()
            raise
        if self._start_workers:
            self._keeping = asyncio.create_task(self._stack.keep(self._db))

    async def close(self) -> None:
        """Stop what was started, and disconnect."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        # No other threads: at the interpreter's end none can be started.
        self._stack.stop()
        await self._exits.aclose()
        self._servers.close()

    async def submit(self, rows: Rows, options: BatchOptions, *, plan_only: bool) -> Submitted:
        """Submit rows, or let them be planned only."""
        source = source_of(rows, options)
        request = replace(self._request(options), plan_only=plan_only)
        notes = await check_pool(
            self._db, request.pool, self._settings, asks_endpoints=options.get("ping", True)
        )
        submission = await submit(self._db, source, request, shard_size=self._settings.shard_size)
        if submission.created:
            shards = self._settings.shard_count(submission.job_count)
            await self._publish(Stage.SCORE, submission.batch_id, shards)
        return Submitted(str(submission.batch_id), tuple(_notes(submission, notes)))

    async def submit_plan(self, batch_id: str) -> None:
        """Run exactly what was planned."""
        submission = await submit_plan(self._db, batch_id)
        if submission.created:
            await self._publish(Stage.DISPATCH, submission.batch_id, submission.ready_shards)

    async def plan(self, batch_id: str) -> Plan:
        """Return the plan of a batch, once it is made."""
        batch = await await_plan(self._db, UUID(batch_id), lambda _: self._check_workers())
        return Plan.of(batch.plan or {})

    async def state(self, batch_id: str) -> BatchState:
        """Return the batch now."""
        self._check_workers()
        async with self._db.transaction() as conn:
            batch = await batches.get(conn, UUID(batch_id))
            return _state(await take_snapshot(conn, batch))

    async def results(self, batch_id: str, *, in_order: bool) -> AsyncGenerator[Result, None]:
        """Yield every job's result, as it comes or in input order, until the batch is over."""
        state = await self._begun(batch_id)

        async def is_over() -> bool:
            return (await self.state(batch_id)).is_over

        found = follow_results(self._db, UUID(batch_id), state.jobs, is_over, in_order=in_order)
        async with aclosing(found) as blocks:
            async for block in blocks:
                for record in block:
                    yield _result(record)

    async def pause(self, batch_id: str) -> None:
        """Let no new call start."""
        await pause_batch(self._db, batch_id)

    async def resume(self, batch_id: str, budget_usd: Decimal | None) -> None:
        """Let a paused batch go on, or give it another budget."""
        await resume_batch(self._db, batch_id, budget_usd)

    async def retry(self, batch_id: str) -> None:
        """Open the jobs without an answer again."""
        await retry_batch(self._db, batch_id, retry.UNANSWERED)

    async def cancel(self, batch_id: str) -> None:
        """End a batch; the answers so far are kept."""
        await cancel_batch(self._db, batch_id, wait=True)

    async def find(self, text: str | None) -> str:
        """Return the id of a batch named by id, start of an id, or name; None is the latest."""
        async with self._db.transaction() as conn:
            return str((await find_batch(conn, text)).id)

    async def recent(self, limit: int) -> list[str]:
        """Return the ids of the newest batches, newest first."""
        async with self._db.transaction() as conn:
            return [str(batch.id) for batch in await batches.list_recent(conn, limit)]

    def _request(self, options: BatchOptions) -> BatchRequest:
        texts, pool = as_texts(options), _pool_of(options.get("pool"), self._settings)
        return BatchRequest(
            pool=pool,
            name=options.get("name"),
            idempotency_key=options.get("idempotency_key"),
            budget_usd=read_budget(texts, label),
            objective=read_objective(texts, pool.names, label),
            call_options=_call_options(options),
            sla=read_limits(texts, pool.names, datetime.now(UTC), label, rules_of(options)),
            ignore_model=options.get("ignore_model", False),
            skip_invalid=options.get("skip_invalid", False),
            webhooks=webhooks_of(options, allow_http=self._settings.webhook_allow_http),
        )

    async def _publish(self, stage: Stage, batch_id: UUID, shards: int) -> None:
        if self._keeping is not None:
            ready = asyncio.create_task(self._stack.ready.wait())
            await asyncio.wait({ready, self._keeping}, return_when=asyncio.FIRST_COMPLETED)
            self._check_workers()
        # Without a broker the workers' recovery tick finds the batch.
        await asyncio.to_thread(try_to_publish, self._settings, stage, batch_id, shards)

    def _check_workers(self) -> None:
        """Raise why workers that were to be started do not live."""
        if self._keeping is not None and self._keeping.done():
            self._keeping.result()

    async def _begun(self, batch_id: str) -> BatchState:
        state = await self.state(batch_id)
        if state.status in {BatchStatus.PLANNING, BatchStatus.PLANNED}:
            raise InputError(
                "a plan has no results", value=batch_id, remedy="Submit it: batch.submit()"
            )
        return state


def _pool_of(pool: object, settings: Settings) -> Pool:
    if isinstance(pool, Pool):
        return pool.with_batch_channels()
    return load_pool(settings.pool if pool is None else Path(str(pool))).with_batch_channels()


def _call_options(options: BatchOptions) -> CallOptions:
    return CallOptions(
        dedupe=options.get("dedupe"),
        on_unavailable=OnUnavailable(read_on_unavailable(options.get("on_unavailable", "wait"))),
        patience_s=options.get("patience_s"),
        max_completion_tokens=options.get("max_completion_tokens"),
        cascade=options.get("cascade", True),
    )


def _notes(submission: Submission, found: Iterable[str]) -> Iterator[str]:
    yield from found
    if not submission.created:
        yield "known under this idempotency key: nothing was added"
    if submission.error_file is not None:
        count = submission.problems.bad_rows
        yield f"{count:,} bad rows were left out and written to {submission.error_file}"
    if submission.ignored_fields:
        yield f"fields not used: {', '.join(map(ascii, submission.ignored_fields))}"


def _state(now: Snapshot) -> BatchState:
    balance = now.progress.balance
    waits = None if now.wait is None or now.wait.is_served else now.wait.role
    return BatchState(
        id=str(now.batch.id),
        name=now.batch.name,
        status=now.progress.status,
        jobs=now.progress.jobs,
        answered=now.succeeded,
        failed=now.unsuccessful,
        downgraded=now.progress.deviations.downgrades,
        spent_usd=now.spent_usd,
        budget_usd=balance.limit_usd,
        stage=now.stage,
        left_s=now.left_s,
        waits_for=waits,
        error=now.progress.error,
    )


def _result(record: ResultRecord) -> Result:
    return Result(
        index=record.job_no,
        custom_id=record.custom_id,
        status=record.status,
        answer=record.answer,
        model=record.model,
        cost_usd=record.cost_usd,
        expected_quality=record.expected_quality,
        planned_model=record.planned_model,
        reason=record.reason,
        decision=record.decision,
        latency_s=record.latency_s,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        error_code=record.error_code,
        error_message=record.error_message,
        response=record.response,
    )
