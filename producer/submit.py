"""Submits a batch: rows to committed jobs in one pass and one transaction."""

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from producer.rows.body import BodyCheck
from producer.rows.check import RowCheck
from producer.rows.intake import Intake
from producer.rows.problems import BadInputError, ProblemReport, RawRow
from producer.rows.report import ErrorFile
from producer.rows.source import Source
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import SLA, BatchStatus
from routoo.domain.pool import Pool
from routoo.errors import InputError
from routoo.store import batches
from routoo.store.batches import BatchRecord
from routoo.store.database import Database
from routoo.store.jobs import copy_jobs


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of a batch; None means no limit."""

    pool: Pool
    name: str | None = None
    """What its owner calls it; the file's name where unset."""
    idempotency_key: str | None = None
    """Two submissions with the same key are one batch."""
    budget_usd: Decimal | None = None
    """Most that all calls may cost together, in USD."""
    objective: Objective = field(default_factory=Objective)
    """What the selection aims at."""
    call_options: CallOptions = field(default_factory=CallOptions)
    """How its calls are made."""
    draft: bool = False
    """Score and select it only; no call is made until its plan is submitted."""
    sla: SLA = field(default_factory=SLA)
    """Limits of every job that names no own."""
    ignore_model: bool = False
    """Route every job, whatever model its request names."""
    skip_invalid: bool = False
    """Submit the good rows of an input that has bad ones too."""
    error_file: Path | None = None
    """Where bad rows are written; with skip_invalid beside the input where unset."""


@dataclass(frozen=True, slots=True)
class Submission:
    """What became of an order."""

    batch_id: UUID
    created: bool
    """False where the idempotency key was known: then the batch of that key is named."""
    job_count: int
    report: ProblemReport
    """Bad rows, left out."""
    error_file: Path | None = None
    """Where they are, if there are any."""
    ignored_fields: tuple[str, ...] = ()
    """Names of fields in the input that mean nothing here."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a submission has come."""

    rows: int
    bytes_read: int
    """0 where the input does not tell."""


async def submit(
    database: Database,
    source: Source,
    order: Order,
    *,
    shard_size: int,
    on_progress: Callable[[Pace], None] | None = None,
) -> Submission:
    """Submit a batch: after it returns, all its jobs are committed; if it raises, none are.

    Args:
        database: Where the batch goes; migrated.
        source: The input rows.
        order: What is asked of the batch.
        shard_size: Most jobs in a shard.
        on_progress: Called after each chunk of rows.

    Raises:
        BadInputError: Rows have problems and are not to be skipped; carries them all.
        InputError: The input has no rows or can't be read.
        StoreError: The database failed.
    """
    name = order.name or (source.path.stem if source.path is not None else source.name)
    new = batches.NewBatch(
        name=name,
        pool=order.pool,
        idempotency_key=order.idempotency_key,
        budget_usd=order.budget_usd,
        min_quality=order.sla.min_quality,
        max_cost_usd=order.sla.max_cost_usd,
        deadline=order.sla.deadline,
        objective=order.objective,
        draft=order.draft,
        call_options=order.call_options,
    )
    async with database.transaction() as conn:
        batch_id, created = await batches.create(conn, new)
        if not created:
            known = await batches.get(conn, batch_id)
            _check_same_kind(known, order)
            return Submission(
                batch_id,
                created=False,
                job_count=known.job_count,
                report=ProblemReport(source.name),
            )
        with _reading(source, order) as reading, _collector_paused():
            await _copy(conn, batch_id, reading, on_progress)
            await batches.seal(conn, batch_id, reading.intake.job_count, shard_size)
    return reading.submission(batch_id)


def _check_same_kind(known: BatchRecord, order: Order) -> None:
    """Refuse to take a plan that makes no call for the batch that was to be submitted."""
    waits = known.status in {BatchStatus.PLANNING, BatchStatus.PLANNED}
    if waits and not order.draft:
        raise InputError(
            "under this idempotency key there is a plan that waits",
            value=order.idempotency_key,
            remedy=f"Submit it with `routoo-producer submit --plan {known.id}`, or use another key",
        )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from the rows: they hold no cycles, and it costs a sixth."""
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

    intake: Intake
    chunks: Iterator[list[RawRow]]
    bytes_read: Callable[[], int]
    errors: ErrorFile | None
    skip_invalid: bool

    def check_complete(self) -> None:
        """Raise what keeps the batch from being submitted."""
        report = self.intake.report
        if report.bad_rows and not (self.skip_invalid and self.intake.job_count):
            raise BadInputError(report, row_count=self.intake.row_count)
        if not self.intake.job_count:
            raise InputError("the input has no rows", where=report.source, remedy="Give at least 1")

    def submission(self, batch_id: UUID) -> Submission:
        error_file = self.errors.path if self.errors is not None and self.errors.rows else None
        ignored = tuple(sorted(self.intake.check.ignored))
        report = self.intake.report
        return Submission(
            batch_id,
            created=True,
            job_count=self.intake.job_count,
            report=report,
            error_file=error_file,
            ignored_fields=ignored,
        )


@contextmanager
def _reading(source: Source, order: Order) -> Iterator[_Reading]:
    with ExitStack() as stack:
        errors = None
        if order.error_file is not None or order.skip_invalid:
            path = order.error_file or Path(f"{source.name}.errors.jsonl")
            errors = stack.enter_context(ErrorFile(path))
        chunks, bytes_read = stack.enter_context(source.rows())
        body_check = BodyCheck(order.pool, ignore_model=order.ignore_model)
        row_check = RowCheck(body_check, order.sla, datetime.now(UTC))
        report = ProblemReport(source.name)
        intake = Intake(row_check, report, errors.add if errors is not None else None)
        yield _Reading(intake, chunks, bytes_read, errors, order.skip_invalid)


async def _copy(
    conn: AsyncConnection,
    batch_id: UUID,
    reading: _Reading,
    on_progress: Callable[[Pace], None] | None,
) -> None:
    report = reading.intake.report
    async with copy_jobs(conn, batch_id) as copy:
        for jobs in reading.intake.jobs(reading.chunks):
            # Once the batch is lost the rest is only read to list every problem.
            if jobs and (reading.skip_invalid or not report.bad_rows):
                await copy.write(jobs)
            if on_progress is not None:
                on_progress(Pace(reading.intake.row_count, reading.bytes_read()))
        reading.check_complete()
