"""One look at one batch at a provider: hand it over, find it, watch it, settle it.

Whether a batch was created when a worker died, or its request timed out, is not known. So the
attempt is noted before it is made, the batch carries a marker of ours, and nobody asks again before
the attempt can't be under way any more and the provider's list shows no such marker.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from routoo.client.provider_batches import channel_of
from routoo.domain.completion import Attempt, Completion, Result
from routoo.domain.job import Lease
from routoo.domain.pool import CandidateModel
from routoo.domain.provider_batch import OpenProviderBatch, ProviderBatch, ProviderState
from routoo.errors import ConfigError, EndpointError, InvalidResponseError, RequestRejectedError
from routoo.pipeline.provider_batch.rows import input_file, settlement
from routoo.ports import BatchProvider
from routoo.store import ledger, provider_batches, results
from routoo.store.database import Database

_ROWS_PER_TRANSACTION = 500
_GONE = {404, 410}
_SHARE_OF_AGE = 0.1
"""A batch is looked at again after this share of its age."""
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ChannelOptions:
    """How often providers are asked, and how long they are waited for."""

    poll_s: float = 30.0
    """Shortest wait between two looks at a batch, in seconds."""
    longest_poll_s: float = 300.0
    create_grace_s: float = 120.0
    """A creation without an answer may be under way for this long, in seconds."""
    hand_over_s: float = 3600.0
    """Rows that no provider took within this time are called one by one, in seconds."""
    patience_s: float = 86_400.0
    """How long after its window a batch's answers are waited for, in seconds."""


@dataclass(frozen=True, slots=True)
class Visit:
    """One look at one batch of a shard."""

    lease: Lease
    model: CandidateModel
    open: OpenProviderBatch
    cancelling: bool
    """The rows' owner wants no more answers."""
    filter_ends: bool = False
    """A job whose row a content filter refused is called no more."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Makes visits for dispatch shards."""

    db: Database
    provider: BatchProvider
    options: ChannelOptions = field(default_factory=ChannelOptions)

    async def visit(self, visit: Visit) -> float | None:
        """Take one batch as far as it gets now.

        Returns:
            After how many seconds to look again; None where every row is settled.

        Raises:
            StaleLeaseError: Another worker owns the shard now.
            StoreError: The database can't be reached or refused.
            ConfigError: The provider's key is not set.
        """
        one = visit.open
        try:
            if one.state is ProviderState.CREATED:
                return await self._look(visit, str(one.provider_id))
            if one.create_age_s is not None:
                return await self._look_for(visit, one.create_age_s)
            return await self._send(visit)
        except ConfigError as error:
            if not visit.cancelling:
                raise
            # Nobody mends the settings of a batch that nobody wants: it must come to its end.
            await self._close(visit, missing=_unknown(visit, str(error)))
            return None

    async def _look_for(self, visit: Visit, create_age_s: float) -> float | None:
        """Find out whether a creation without an answer took place."""
        rest_s = self.options.create_grace_s - create_age_s
        if rest_s > 0:
            return rest_s
        since = (visit.open.prepared_at - _CLOCK_SKEW).timestamp()
        try:
            found = await self.provider.find(visit.model, str(visit.open.marker), since)
        except EndpointError as error:
            return await self._give_up_or_wait(visit, error)
        return await self._send(visit) if found is None else await self._created(visit, found)

    async def _send(self, visit: Visit) -> float | None:
        """Hand rows over that the provider does not have."""
        async with self.db.transaction() as conn:
            rows = await provider_batches.load_rows(conn, visit.lease, visit.open.marker)
        if visit.cancelling or not rows:
            await self._close(visit, missing=_refused(visit, "the batch was cancelled"))
            return None
        marker = str(visit.open.marker)
        try:
            content = input_file(visit.model, rows)
            file_id = await self.provider.upload(visit.model, f"routoo-{marker}.jsonl", content)
            async with self.db.transaction() as conn:
                await provider_batches.note_create(conn, visit.lease, visit.open.marker)
        except EndpointError as error:
            return await self._refuse_or_wait(visit, error)
        try:
            created = await self.provider.create(visit.model, file_id, marker, rows[0].body)
        except EndpointError as error:
            if error.retryable:  # it may have been created all the same: `_look_for` finds out
                return await self._wait(visit, error)
            return await self._refuse_or_wait(visit, error)
        return await self._created(visit, created)

    async def _refuse_or_wait(self, visit: Visit, error: EndpointError) -> float | None:
        """Decide on rows that the provider surely does not have."""
        if error.retryable and visit.open.age_s < self.options.hand_over_s:
            return await self._wait(visit, error)
        await self._close(visit, missing=_refused(visit, str(error)))
        return None

    async def _created(self, visit: Visit, created: ProviderBatch) -> float:
        async with self.db.transaction() as conn:
            await provider_batches.note_created(conn, visit.lease, visit.open.marker, created.id)
        return self.options.poll_s

    async def _look(self, visit: Visit, provider_id: str) -> float | None:
        """Ask the provider how far it is, and settle the rows once it is done."""
        try:
            found = await self.provider.get(visit.model, provider_id)
            if found.is_over:
                await self._collect(visit, found)
                return None
        except EndpointError as error:
            if error.http_status not in _GONE:
                return await self._give_up_or_wait(visit, error)
            await self._close(visit, missing=_unknown(visit, str(error)))
            return None
        if visit.cancelling and not visit.open.cancel_asked:
            with suppress(EndpointError):  # it may be over by now; the next look tells
                await self.provider.cancel(visit.model, provider_id)
                async with self.db.transaction() as conn:
                    await provider_batches.note_cancel(conn, visit.lease, visit.open.marker)
        return await self._give_up_or_wait(visit, None, status=found.status)

    async def _give_up_or_wait(
        self, visit: Visit, error: EndpointError | None, *, status: str | None = None
    ) -> float | None:
        """Decide on rows that the provider may have."""
        window_s = channel_of(visit.model).window_h * 3600
        if visit.open.age_s <= window_s + self.options.patience_s:
            return await self._wait(visit, error, status=status)
        why = str(error) if error else f"the provider's batch is still {status}"
        await self._close(visit, missing=_unknown(visit, why))
        return None

    async def _collect(self, visit: Visit, found: ProviderBatch) -> None:
        async with self.db.transaction() as conn:
            rows = await provider_batches.load_rows(conn, visit.lease, visit.open.marker)
        outcomes = await self.provider.outcomes(visit.model, found, rows)
        if found.status == "failed":
            missing: EndpointError = _refused(visit, found.message or "it gives no reason")
        else:
            missing = _unknown(visit, f"the files of the batch, {found.status}, don't name the row")
        await self._close(visit, outcomes, missing=missing)

    async def _close(
        self,
        visit: Visit,
        outcomes: Mapping[str, Completion | EndpointError] | None = None,
        *,
        missing: EndpointError,
    ) -> None:
        """Settle every row, those without an outcome with `missing`; repeating it is harmless."""
        lease, marker = visit.lease, visit.open.marker
        async with self.db.transaction() as conn:
            rows = await provider_batches.load_rows(conn, lease, marker)
        found = outcomes or {}
        settled = [
            settlement(
                visit.model,
                row,
                found.get(row.custom_id, missing),
                filter_ends=visit.filter_ends,
            )
            for row in rows
        ]
        for first in range(0, len(settled), _ROWS_PER_TRANSACTION):
            part = settled[first : first + _ROWS_PER_TRANSACTION]
            async with self.db.transaction() as conn:
                await ledger.settle(conn, lease, [attempt for attempt, _ in part])
                await results.save(conn, lease, _kept(visit, part))
        async with self.db.transaction() as conn:
            error = None if all(row.custom_id in found for row in rows) else str(missing)
            await provider_batches.close(conn, lease, marker, error=error)

    async def _wait(
        self, visit: Visit, error: EndpointError | None, *, status: str | None = None
    ) -> float:
        said = None if error is None else str(error)
        async with self.db.transaction() as conn:
            marker = visit.open.marker
            await provider_batches.note_look(conn, visit.lease, marker, status=status, error=said)
        pace_s = 0.0 if visit.cancelling else visit.open.age_s * _SHARE_OF_AGE
        return min(max(pace_s, self.options.poll_s), self.options.longest_poll_s)


def _kept(visit: Visit, part: Sequence[tuple[Attempt, Result | None]]) -> list[Result]:
    """Return the results to save; what a cancelled batch did not answer ends as cancelled."""
    found = [result for _, result in part if result is not None]
    return [one for one in found if one.completion is not None or not visit.cancelling]


def _unknown(visit: Visit, why: str) -> EndpointError:
    """Return the outcome of a row that the provider may have answered and billed."""
    return InvalidResponseError(f"the answer was lost: {why}", where=_where(visit))


def _refused(visit: Visit, why: str) -> EndpointError:
    """Return the outcome of a row that the provider did not take."""
    return RequestRejectedError(f"the provider took no batch: {why}", where=_where(visit))


def _where(visit: Visit) -> str:
    return f"batch channel of {visit.model.predicted_as}"
