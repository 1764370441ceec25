"""The provider batch channel: jobs that can wait go through providers' batch APIs.

All of it happens under the lease of the dispatch shard that the jobs belong to, in short turns.
The first turn reserves the rows' money, records the rows and submits them; then the shard is handed
back and waits. Each later turn, of any worker, polls the provider, and settles the rows once the
batch is over. The job of a row that failed is then called like any other job.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from psycopg import AsyncConnection

from routoo.domain.completion import Reservation
from routoo.domain.job import BatchStatus, Lease
from routoo.domain.provider_batch import OpenProviderBatch, ProviderState
from routoo.pipeline.dispatch.fallback import fallback_money, final_filters, rank_candidates
from routoo.pipeline.provider_batch.rows import reservation_of, row_of, split
from routoo.pipeline.provider_batch.tracker import BatchTracker, TrackedBatch
from routoo.pipeline.select.eligibility import can_wait
from routoo.store import budget, endpoints, jobs, ledger, provider_batches
from routoo.store.batches.records import BatchRecord
from routoo.store.lost_calls import write_off
from routoo.store.put_off import WaitsFor
from routoo.store.shards import Done, HandedBack, WorkOutcome

_ENDING = {BatchStatus.CANCELLING, BatchStatus.FAILED}
"""States in which rows are given up: their provider's batch is cancelled and settled."""


@dataclass(frozen=True, slots=True)
class ProviderChannel:
    """Submits, polls and settles the provider batches of dispatch shards."""

    tracker: BatchTracker

    async def dispatch(
        self, lease: Lease, batch: BatchRecord, call: Callable[[], Awaitable[WorkOutcome]]
    ) -> WorkOutcome:
        """Dispatch a shard: first the jobs of batch channels, then every other job by calls.

        Args:
            lease: A dispatch shard; renewed by the caller.
            batch: The shard's batch, in progress, being cancelled or failed.
            call: Answers the jobs that no provider batch holds.

        Returns:
            Done when every job of the shard has a result. Handed back when some were left pending:
            then the shard waits for its providers, if it waits for nothing else.

        Raises:
            StaleLeaseError: Another worker owns the shard now.
            StoreError: The database can't be reached or refused.
            ConfigError: A provider's key is not set.
        """
        wait_s = await self.advance(lease, batch)
        if batch.status in _ENDING:
            return HandedBack(wait_s)
        outcome = await call()
        if isinstance(outcome, Done):
            return outcome if wait_s is None else HandedBack(wait_s)
        if _has_channel(batch) and await self._is_any_open(batch):
            # Its rows may free money.
            return HandedBack(self.tracker.options.poll_s, _waits_for(outcome))
        return outcome

    async def _is_any_open(self, batch: BatchRecord) -> bool:
        async with self.tracker.db.transaction() as conn:
            return await provider_batches.is_any_open(conn, batch.id)

    async def advance(self, lease: Lease, batch: BatchRecord) -> float | None:
        """Take every provider batch of a shard as far as it gets now, and prepare new ones.

        Args:
            lease: A dispatch shard; renewed by the caller.
            batch: The shard's batch, in progress, being cancelled or failed.

        Returns:
            After how many seconds to do so again; None where no provider holds a row.

        Raises:
            StaleLeaseError, StoreError, ConfigError: As `dispatch` raises.
        """
        if not _has_channel(batch):
            return None
        cancelling = batch.status in _ENDING
        waits_s = [
            await self.tracker.advance(_tracked(lease, batch, one))
            for one in await self._load_open(lease)
        ]
        if not cancelling and await self._prepare(lease, batch):
            fresh = [one for one in await self._load_open(lease) if _is_fresh(one)]
            waits_s += [await self.tracker.advance(_tracked(lease, batch, one)) for one in fresh]
        return min((wait_s for wait_s in waits_s if wait_s is not None), default=None)

    async def _load_open(self, lease: Lease) -> list[OpenProviderBatch]:
        async with self.tracker.db.transaction() as conn:
            return await provider_batches.load_open(conn, lease)

    async def _prepare(self, lease: Lease, batch: BatchRecord) -> int:
        """Reserve and record rows for every job of a channel; return the number of new batches."""
        async with self.tracker.db.transaction() as conn:
            await write_off(conn, lease)
            sent = await provider_batches.ever_sent(conn, lease)
            self.tracker.behaviour.update(await endpoints.load_behaviour(conn))
            unheld = await jobs.pending(conn, lease)
        pending = [job for job in unheld if job.job.job_no not in sent]
        kept_usd = fallback_money(batch, unheld, rank_candidates(batch, unheld))
        now, prepared = datetime.now(UTC), 0
        for model in (model for model in batch.pool.models if model.is_batch_channel):
            chosen = [job for job in pending if job.model == model.name]
            known = self.tracker.behaviour.apply(model)
            rows = [row_of(job, known) for job in chosen if can_wait(job.job.sla, model, now)]
            for part in split(known, rows):
                wanted = [reservation_of(row, model) for row in part]
                async with self.tracker.db.transaction() as conn:
                    granted = await ledger.reserve(conn, lease, wanted)
                    calls = [call for call, yes in zip(wanted, granted, strict=True) if yes]
                    if calls:
                        await provider_batches.prepare(conn, lease, model.name, calls)
                        await _keep_for_others(conn, lease, kept_usd, calls)
                        prepared += 1
        return prepared


async def _keep_for_others(
    conn: AsyncConnection,
    lease: Lease,
    kept_usd: dict[int, Decimal] | None,
    reserved: Sequence[Reservation],
) -> None:
    """Keep nothing for the cheapest calls of jobs whose rows have money reserved.

    That pays for the call if the row fails: `BatchTracker` keeps it then.
    """
    if kept_usd is not None:
        for call in reserved:
            kept_usd.pop(call.job_no, None)
        await budget.keep_fallback(conn, lease, sum(kept_usd.values(), Decimal(0)))


def _waits_for(outcome: WorkOutcome) -> WaitsFor | None:
    return outcome.waits_for if isinstance(outcome, HandedBack) else None


def _has_channel(batch: BatchRecord) -> bool:
    return any(model.is_batch_channel for model in batch.pool.models)


def _tracked(lease: Lease, batch: BatchRecord, one: OpenProviderBatch) -> TrackedBatch:
    model = batch.pool.models[batch.pool.index(one.model)]
    cancelling = batch.status in _ENDING
    return TrackedBatch(
        lease, model, one, cancelling, filter_ends=model.name in final_filters(batch)
    )


def _is_fresh(one: OpenProviderBatch) -> bool:
    return one.state is ProviderState.PREPARED and one.create_age_s is None
