"""Tracks a batch at a provider: submits it, finds it again, polls it, and settles its rows.

When a worker dies in the request that creates a batch, or the request times out, nobody knows
whether the batch exists. So the attempt is recorded before it is made, and the batch carries a
marker of ours. Another attempt is made only when the first can't be in progress any more and the
provider's list of batches has no such marker.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

from routoo.client.provider_batches import channel_of
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import Attempt, Completion, Result
from routoo.domain.job import Lease
from routoo.domain.pool import CandidateModel
from routoo.domain.provider_batch import (
    OpenProviderBatch,
    ProviderBatch,
    ProviderRow,
    ProviderState,
)
from routoo.errors import (
    BatchPostponedError,
    ConfigError,
    EndpointError,
    InvalidResponseError,
    LimitFieldRefusedError,
    RequestRejectedError,
    ValueRefusedError,
)
from routoo.pipeline.dispatch.pending_writes import without_answer, without_usage
from routoo.pipeline.provider_batch.rows import input_file, settlement
from routoo.ports import BatchProvider
from routoo.store import budget, endpoints, ledger, provider_batches, results
from routoo.store.database import Database

_ROWS_PER_TRANSACTION = 500
_GONE = {404, 410}
_SHARE_OF_AGE = 0.1
"""A batch is polled again after this share of its age."""
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """How often providers are asked, and how long they are waited for."""

    poll_s: float = 30.0
    """Shortest time between two polls of a batch, in seconds."""
    longest_poll_s: float = 300.0
    """Longest time between two polls of a batch, in seconds."""
    create_grace_s: float = 120.0
    """How long a creation without an answer may be in progress, in seconds."""
    patience_s: float = 86_400.0
    """How long after its window a batch's answers are waited for, in seconds."""


@dataclass(frozen=True, slots=True)
class TrackedBatch:
    """One provider batch of a leased dispatch shard."""

    lease: Lease
    model: CandidateModel
    open: OpenProviderBatch
    cancelling: bool
    """Whether the batch that the rows belong to is being cancelled."""
    filter_ends: bool = False
    """Whether a job ends when a content filter refuses its row."""


@dataclass(frozen=True, slots=True)
class BatchTracker:
    """Advances provider batches; shared by all shards of a dispatcher."""

    db: Database
    provider: BatchProvider
    options: ChannelOptions = field(default_factory=ChannelOptions)
    behaviour: KnownBehaviour = field(default_factory=KnownBehaviour)
    """What is known of endpoints beside their pools; rows show more of it."""

    async def advance(self, batch: TrackedBatch) -> float | None:
        """Take one batch as far as it gets now.

        Returns:
            After how many seconds to advance it again; None when every row is settled.

        Raises:
            StaleLeaseError: Another worker owns the shard now.
            StoreError: The database can't be reached or refused.
            ConfigError: The provider's key is not set.
        """
        one = batch.open
        try:
            if one.state is ProviderState.CREATED:
                return await self._poll(batch, str(one.provider_id))
            if one.create_age_s is not None:
                return await self._find(batch, one.create_age_s)
            return await self._submit(batch)
        except ConfigError as error:
            if not batch.cancelling:
                raise
            # Nobody repairs the settings of a cancelled batch, but it must end.
            await self._settle(batch, missing=_unknown(batch, str(error)))
            return None

    async def _find(self, batch: TrackedBatch, create_age_s: float) -> float | None:
        """Look for a batch whose creation was not answered; submit it again if it doesn't exist."""
        rest_s = self.options.create_grace_s - create_age_s
        if rest_s > 0:
            return rest_s
        since_s = (batch.open.prepared_at - _CLOCK_SKEW).timestamp()
        try:
            if not self.provider.keeps_markers(batch.model):
                return await self._find_by_outcomes(batch, since_s)
            found = await self.provider.find(batch.model, str(batch.open.marker), since_s)
        except EndpointError as error:
            return await self._give_up_or_wait(batch, error)
        return await self._submit(batch) if found is None else await self._created(batch, found)

    async def _find_by_outcomes(self, batch: TrackedBatch, since_s: float) -> float | None:
        """Do so at a provider whose batches show our marker only in their outcomes.

        A batch of as many rows that nobody here knows may be ours until it has ended.
        """
        listed = await self.provider.list_since(batch.model, since_s)
        async with self.db.transaction() as conn:
            rows = await provider_batches.load_rows(conn, batch.lease, batch.open.marker)
            known = await provider_batches.known(conn, [one.id for one in listed])
        strangers = [
            one for one in listed if one.id not in known and one.row_count in {None, len(rows)}
        ]
        for one in strangers:
            marker = str(batch.open.marker)
            if one.is_over and await self.provider.holds(batch.model, one, marker):
                return await self._created(batch, one)
        if any(not one.is_over for one in strangers):
            return await self._give_up_or_wait(batch, None, status="not known to be created")
        return await self._submit(batch)

    async def _submit(self, batch: TrackedBatch) -> float | None:
        """Upload rows that the provider does not have, and create a batch of them."""
        async with self.db.transaction() as conn:
            rows = await provider_batches.load_rows(conn, batch.lease, batch.open.marker)
        reason = _reason_against(batch, rows)
        if reason is not None:
            await self._settle(batch, missing=_refused(batch, reason))
            return None
        try:
            file_id = batch.open.file_id or await self._upload(batch, rows)
            async with self.db.transaction() as conn:
                await provider_batches.note_create(conn, batch.lease, batch.open.marker)
        except EndpointError as error:
            return await self._refuse_or_wait(batch, rows, error)
        return await self._create(batch, file_id, rows)

    async def _create(
        self, batch: TrackedBatch, file_id: str | None, rows: Sequence[ProviderRow]
    ) -> float | None:
        """Create a batch of rows that were uploaded, or of the rows themselves."""
        known, marker = self.behaviour.apply(batch.model), str(batch.open.marker)
        try:
            created = await self.provider.create(known, file_id, marker, rows)
        except BatchPostponedError as error:
            return await self._postpone_or_refuse(batch, rows, error)
        except EndpointError as error:
            if error.retryable:  # it may exist all the same: `_find` looks for it
                return await self._wait(batch, error)
            return await self._refuse_or_wait(batch, rows, error)
        return await self._created(batch, created)

    async def _upload(self, batch: TrackedBatch, rows: Sequence[ProviderRow]) -> str | None:
        """Upload the input file, and note how the provider names it; None where it takes none."""
        known, marker = self.behaviour.apply(batch.model), batch.open.marker
        content = input_file(known, rows)
        file_id = await self.provider.upload(batch.model, f"routoo-{marker}.jsonl", content)
        if file_id is None:
            return None
        async with self.db.transaction() as conn:
            await provider_batches.note_file(conn, batch.lease, marker, file_id)
        return file_id

    async def _refuse_or_wait(
        self, batch: TrackedBatch, rows: Sequence[ProviderRow], error: EndpointError
    ) -> float | None:
        """Try again later, or give up a batch that the provider surely does not have."""
        if error.retryable and _may_try_again(batch, rows):
            return await self._wait(batch, error)
        if not error.retryable and batch.open.file_id is not None:
            # The file is an earlier turn's, which the provider may have deleted by now.
            async with self.db.transaction() as conn:
                await provider_batches.note_file(conn, batch.lease, batch.open.marker, None)
            return await self._postpone_or_refuse(batch, rows, error)
        await self._settle(batch, missing=_refused(batch, str(error)))
        return None

    async def _postpone_or_refuse(
        self, batch: TrackedBatch, rows: Sequence[ProviderRow], error: EndpointError
    ) -> float | None:
        """Try again later, without a look for the batch, or give it up if that is too late."""
        if not _may_try_again(batch, rows):
            await self._settle(batch, missing=_refused(batch, str(error)))
            return None
        async with self.db.transaction() as conn:
            lease, marker = batch.lease, batch.open.marker
            await provider_batches.note_postponed(conn, lease, marker, str(error))
        wait_s = self._wait_s(batch)
        return max(wait_s, min(error.retry_after_s or 0.0, self.options.longest_poll_s))

    async def _created(self, batch: TrackedBatch, created: ProviderBatch) -> float:
        async with self.db.transaction() as conn:
            await provider_batches.note_created(conn, batch.lease, batch.open.marker, created.id)
        return self.options.poll_s

    async def _poll(self, batch: TrackedBatch, provider_id: str) -> float | None:
        """Ask the provider for the state of a batch, and settle the rows once it is over."""
        try:
            found = await self.provider.get(batch.model, provider_id)
            if found.is_over:
                return await self._fetch_answers(batch, found)
        except EndpointError as error:
            if error.http_status not in _GONE:
                return await self._give_up_or_wait(batch, error)
            await self._settle(batch, missing=_unknown(batch, str(error)))
            return None
        if batch.cancelling and not batch.open.cancel_asked:
            with suppress(EndpointError):  # it may be over by now; the next poll shows it
                await self.provider.cancel(batch.model, provider_id)
                async with self.db.transaction() as conn:
                    await provider_batches.note_cancel(conn, batch.lease, batch.open.marker)
        return await self._give_up_or_wait(batch, None, status=found.status)

    async def _give_up_or_wait(
        self, batch: TrackedBatch, error: EndpointError | None, *, status: str | None = None
    ) -> float | None:
        """Wait, or give up a batch that the provider may have."""
        window_s = channel_of(batch.model).window_h * 3600
        if batch.open.age_s <= window_s + self.options.patience_s:
            return await self._wait(batch, error, status=status)
        why = str(error) if error else f"the provider's batch is still {status}"
        await self._settle(batch, missing=_unknown(batch, why))
        return None

    async def _fetch_answers(self, batch: TrackedBatch, found: ProviderBatch) -> float | None:
        """Settle the rows of a batch that is over; create one that was postponed again, later."""
        async with self.db.transaction() as conn:
            rows = await provider_batches.load_rows(conn, batch.lease, batch.open.marker)
        if found.is_postponed and not batch.cancelling:
            why = BatchPostponedError(found.message or found.status, where=_where(batch))
            return await self._postpone_or_refuse(batch, rows, why)
        outcomes = await self.provider.outcomes(batch.model, found, rows)
        if found.status == "failed":
            missing: EndpointError = _refused(batch, found.message or "it gives no reason")
        else:
            missing = _unknown(batch, f"the files of the batch, {found.status}, don't name the row")
        await self._settle(batch, outcomes, missing=missing)
        return None

    async def _settle(
        self,
        batch: TrackedBatch,
        outcomes: Mapping[str, Completion | EndpointError] | None = None,
        *,
        missing: EndpointError,
    ) -> None:
        """Settle every row, those without an outcome as `missing`; it may be repeated."""
        lease, marker = batch.lease, batch.open.marker
        async with self.db.transaction() as conn:
            rows = await provider_batches.load_rows(conn, lease, marker)
        found = outcomes or {}
        await self._learn(batch.model, rows, found)
        settle = partial(settlement, batch.model, filter_ends=batch.filter_ends)
        settled = [await settle(row, found.get(row.custom_id, missing)) for row in rows]
        worst_usd = {row.job_no: row.worst_case_usd for row in rows}
        for first in range(0, len(settled), _ROWS_PER_TRANSACTION):
            await self._save(batch, settled[first : first + _ROWS_PER_TRANSACTION], worst_usd)
        async with self.db.transaction() as conn:
            error = None if all(row.custom_id in found for row in rows) else str(missing)
            await provider_batches.close(conn, lease, marker, error=error)

    async def _save(
        self,
        batch: TrackedBatch,
        part: Sequence[tuple[Attempt, Result | None]],
        worst_usd: Mapping[int, Decimal],
    ) -> None:
        """Save what came of some rows; one whose answer can't be stored fails alone."""
        try:
            await self._save_at_once(batch, part, worst_usd)
        except ValueRefusedError as error:
            if len(part) > 1:
                half = len(part) // 2
                await self._save(batch, part[:half], worst_usd)
                await self._save(batch, part[half:], worst_usd)
                return
            plain = [
                (without_usage(attempt, error), result and without_answer(result, error))
                for attempt, result in part
            ]
            await self._save_at_once(batch, plain, worst_usd)

    async def _save_at_once(
        self,
        batch: TrackedBatch,
        part: Sequence[tuple[Attempt, Result | None]],
        worst_usd: Mapping[int, Decimal],
    ) -> None:
        """Save rows in a transaction; what failed ones free is kept for the calls to come."""
        failed = [] if batch.cancelling else [one for one, result in part if result is None]
        async with self.db.transaction() as conn:
            freed = [worst_usd[one.job_no] - one.cost_usd for one in failed]
            if sum(freed) > 0:
                await budget.keep_freed(conn, batch.lease, sum(freed, Decimal(0)))
            await ledger.settle(conn, batch.lease, [attempt for attempt, _ in part])
            await results.save(conn, batch.lease, _results_to_save(batch, part))

    async def _learn(
        self,
        model: CandidateModel,
        rows: Sequence[ProviderRow],
        outcomes: Mapping[str, Completion | EndpointError],
    ) -> None:
        """Record what the outcomes of rows show of their endpoint, for later calls and batches."""
        known = self.behaviour.apply(model)
        for row in rows:
            outcome = outcomes.get(row.custom_id)
            if isinstance(outcome, Completion):
                self.behaviour.note_usage(known, row.body, outcome.usage)
            elif isinstance(outcome, LimitFieldRefusedError):
                self.behaviour.note_refusal(known)
        if unsaved := dict(self.behaviour.unsaved):
            async with self.db.transaction() as conn:
                await endpoints.save_behaviour(conn, unsaved)
            self.behaviour.saved(unsaved)

    async def _wait(
        self, batch: TrackedBatch, error: EndpointError | None, *, status: str | None = None
    ) -> float:
        message = None if error is None else str(error)
        async with self.db.transaction() as conn:
            marker = batch.open.marker
            await provider_batches.note_look(
                conn, batch.lease, marker, status=status, error=message
            )
        return self._wait_s(batch)

    def _wait_s(self, batch: TrackedBatch) -> float:
        wait_s = 0.0 if batch.cancelling else batch.open.age_s * _SHARE_OF_AGE
        return min(max(wait_s, self.options.poll_s), self.options.longest_poll_s)


def _reason_against(batch: TrackedBatch, rows: Sequence[ProviderRow]) -> str | None:
    """Return why no batch of some rows is to be created, None where one is."""
    if batch.cancelling or not rows:
        return "the batch was cancelled"
    if batch.open.create_age_s is not None and not _may_try_again(batch, rows):
        return "it answered none of the attempts to create one"
    return None


def _may_try_again(batch: TrackedBatch, rows: Sequence[ProviderRow]) -> bool:
    """Return whether a later attempt to create a batch is in time.

    It is while the window has not passed since the first one, and while every row's deadline leaves
    the whole window.
    """
    window = timedelta(hours=channel_of(batch.model).window_h)
    latest = datetime.now(UTC) + window
    deadlines = [row.deadline for row in rows if row.deadline is not None]
    return batch.open.age_s < window.total_seconds() and all(one >= latest for one in deadlines)


def _results_to_save(
    batch: TrackedBatch, part: Sequence[tuple[Attempt, Result | None]]
) -> list[Result]:
    """Return the results to save; a cancelled batch saves only answers."""
    found = [result for _, result in part if result is not None]
    return [one for one in found if one.completion is not None or not batch.cancelling]


def _unknown(batch: TrackedBatch, why: str) -> EndpointError:
    """Return the outcome of a row that the provider may have answered and billed."""
    return InvalidResponseError(f"the answer was lost: {why}", where=_where(batch))


def _refused(batch: TrackedBatch, why: str) -> EndpointError:
    """Return the outcome of a row that the provider did not take."""
    return RequestRejectedError(f"the provider took no batch: {why}", where=_where(batch))


def _where(batch: TrackedBatch) -> str:
    return f"batch channel of {batch.model.predicted_as}"
