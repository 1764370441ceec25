"""Submits a batch: rows to committed jobs in one pass and one transaction."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from producer.rows.bad_rows import BadInputError, ErrorFile, ProblemList
from producer.rows.body import BodyCheck
from producer.rows.check import InputCheck, RowCheck
from producer.rows.formats import RawRow
from producer.rows.source import RowSource
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import SLA, BatchStatus
from routoo.domain.pool import Pool
from routoo.domain.webhook import Webhook
from routoo.errors import InputError
from routoo.store import batches, webhooks
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database
from routoo.store.jobs import copy_jobs
from routoo.tracing import note, span


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A batch to submit or to plan; None means no limit."""

    pool: Pool
    name: str | None = None
    """Its owner's name for it; the file's name where unset."""
    idempotency_key: str | None = None
    """Two submissions with the same key are one batch."""
    budget_usd: Decimal | None = None
    """Most that all calls may cost together, in USD."""
    objective: Objective = field(default_factory=Objective)
    """What the selection aims at."""
    call_options: CallOptions = field(default_factory=CallOptions)
    """How its calls are made."""
    plan_only: bool = False
    """Score and select its jobs; no call is made until the plan is submitted."""
    sla: SLA = field(default_factory=SLA)
    """Limits of every job whose row sets none of its own."""
    ignore_model: bool = False
    """Choose a model for every job, whatever model its request names."""
    skip_invalid: bool = False
    """Submit the good rows of an input that has bad ones too."""
    error_file: Path | None = None
    """Where bad rows are written; with skip_invalid beside the input where unset."""
    batch_id: UUID | None = None
    """Id of the batch, where it was promised to somebody."""
    webhooks: tuple[Webhook, ...] = ()
    """Who is told how it ended."""
    key_id: UUID | None = None
    """Key of the gateway whose daily limit its calls count against."""


@dataclass(frozen=True, slots=True)
class Submission:
    """The outcome of a submission."""

    batch_id: UUID
    created: bool
    """False where the idempotency key was known: then the batch of that key is named."""
    job_count: int
    problems: ProblemList
    """Bad rows, left out."""
    error_file: Path | None = None
    """The file that holds the bad rows, if there are any."""
    ignored_fields: tuple[str, ...] = ()
    """Names of fields in the input that mean nothing here."""


class NoRowsError(InputError):
    """An input has no rows, and nothing was submitted."""


@dataclass(frozen=True, slots=True)
class ReadProgress:
    """How much of an input has been read."""

    rows: int
    bytes_read: int
    """0 where it is not known."""


async def submit(
    database: Database,
    source: RowSource,
    request: BatchRequest,
    *,
    shard_size: int,
    on_progress: Callable[[ReadProgress], None] | None = None,
) -> Submission:
    """Submit a batch: after it returns, all its jobs are committed; if it raises, none are.

    Args:
        database: Where the batch goes; migrated.
        source: The input rows.
        request: The batch, its limits and its aim.
        shard_size: Most jobs in a shard.
        on_progress: Called after each chunk of rows.

    Raises:
        BadInputError: Rows have problems and are not to be skipped; carries them all.
        NoRowsError: The input has no rows.
        InputError: The input can't be read.
        StoreError: The database failed.
    """
    async with database.transaction() as conn:
        return await submit_in(
            conn, source, request, shard_size=shard_size, on_progress=on_progress
        )


async def submit_in(
    conn: AsyncConnection,
    source: RowSource,
    request: BatchRequest,
    *,
    shard_size: int,
    on_progress: Callable[[ReadProgress], None] | None = None,
) -> Submission:
    """Submit a batch in a transaction, whose commit counts; the rest is as for `submit`."""
    new = _new_batch(source, request)
    with span("submit", new.id, plan_only=request.plan_only) as traced:
        submission = await _submit(conn, source, request, new, shard_size, on_progress)
        note(traced, jobs=submission.job_count, created=submission.created)
    return submission


async def _submit(
    conn: AsyncConnection,
    source: RowSource,
    request: BatchRequest,
    new: batches.NewBatch,
    shard_size: int,
    on_progress: Callable[[ReadProgress], None] | None,
) -> Submission:
    batch_id, created = await batches.create(conn, new)
    if not created:
        known = await batches.get(conn, batch_id)
        _check_same_kind(known, request)
        return Submission(
            batch_id,
            created=False,
            job_count=known.job_count,
            problems=ProblemList(source.name),
        )
    await webhooks.add(conn, batch_id, request.webhooks)
    with _reading(source, request) as reading, _collector_paused():
        await _copy(conn, batch_id, reading, on_progress)
        count = reading.check.job_count
        await batches.seal(conn, batch_id, count, shard_size, key_id=request.key_id)
    return reading.submission(batch_id)


def _new_batch(source: RowSource, request: BatchRequest) -> batches.NewBatch:
    name = request.name or source.stem
    return batches.NewBatch(
        name=name,
        pool=request.pool,
        idempotency_key=request.idempotency_key,
        budget_usd=request.budget_usd,
        min_quality=request.sla.min_quality,
        max_cost_usd=request.sla.max_cost_usd,
        deadline=request.sla.deadline,
        objective=request.objective,
        plan_only=request.plan_only,
        call_options=request.call_options,
        id=request.batch_id or uuid4(),
    )


def _check_same_kind(known: BatchRecord, request: BatchRequest) -> None:
    """Refuse a key under which a plan waits, where a batch was to be submitted."""
    waits = known.status in {BatchStatus.PLANNING, BatchStatus.PLANNED}
    if waits and not request.plan_only:
        raise InputError(
            "under this idempotency key there is a plan that waits",
            value=request.idempotency_key,
            remedy=f"Submit it with `routoo-producer submit --plan {known.id}`, or use another key",
        )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector: rows hold no cycles, and it would take a sixth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass(slots=True)
class _Reading:
    """An input being read."""

    check: InputCheck
    chunks: Iterator[list[RawRow]]
    bytes_read: Callable[[], int]
    errors: ErrorFile | None
    skip_invalid: bool

    def check_complete(self) -> None:
        """Raise what keeps the batch from being submitted."""
        problems = self.check.problems
        if problems.bad_rows and not (self.skip_invalid and self.check.job_count):
            raise BadInputError(problems, row_count=self.check.row_count)
        if not self.check.job_count:
            raise NoRowsError(
                "the input has no rows", where=problems.source, remedy="Give at least 1"
            )

    def submission(self, batch_id: UUID) -> Submission:
        error_file = self.errors.path if self.errors is not None and self.errors.rows else None
        ignored = tuple(sorted(self.check.row_check.ignored))
        problems = self.check.problems
        return Submission(
            batch_id,
            created=True,
            job_count=self.check.job_count,
            problems=problems,
            error_file=error_file,
            ignored_fields=ignored,
        )


@contextmanager
def _reading(source: RowSource, request: BatchRequest) -> Iterator[_Reading]:
    with ExitStack() as stack:
        errors = None
        if request.error_file is not None or request.skip_invalid:
            path = request.error_file or Path(f"{source.name}.errors.jsonl")
            errors = stack.enter_context(ErrorFile(path))
        chunks, bytes_read = stack.enter_context(source.rows())
        body_check = BodyCheck(request.pool, ignore_model=request.ignore_model)
        row_check = RowCheck(body_check, request.sla, datetime.now(UTC))
        problems = ProblemList(source.name)
        check = InputCheck(row_check, problems, errors.add if errors is not None else None)
        yield _Reading(check, chunks, bytes_read, errors, request.skip_invalid)


async def _copy(
    conn: AsyncConnection,
    batch_id: UUID,
    reading: _Reading,
    on_progress: Callable[[ReadProgress], None] | None,
) -> None:
    problems = reading.check.problems
    async with copy_jobs(conn, batch_id) as copy:
        for jobs in reading.check.jobs(reading.chunks):
            # Once the batch is lost the rest is only read to list every problem.
            if jobs and (reading.skip_invalid or not problems.bad_rows):
                await copy.write(jobs)
            if on_progress is not None:
                on_progress(ReadProgress(reading.check.row_count, reading.bytes_read()))
        reading.check_complete()
