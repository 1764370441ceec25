"""Jobs: copied in once, read a slice at a time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg import AsyncConnection, AsyncCopy

from routoo.domain.job import SLA, Job, Lease, PendingJob
from routoo.domain.validators import Validators
from routoo.errors import InputError, NotFoundError
from routoo.store import columns
from routoo.store.encoding import array_literal, copy_field, escaped

NO_LIMITS = SLA()
_LIMITS = columns.names(SLA)
"""Columns of a job's limits, which are the fields of its SLA."""
_UNSET = (None,) * len(_LIMITS)


@dataclass(slots=True)  # not frozen: that triples the cost of making one, a million times a batch
class JobInput:
    """One job to be copied in; its reader has checked it."""

    job_no: int
    """Position in the input, from 0, without gaps."""
    custom_id: str
    body_json: str
    """The chat-completion request as JSON text."""
    sla: SLA = field(default=NO_LIMITS)


class JobCopy:
    """A COPY under way; made by `copy_jobs`."""

    def __init__(self, copy: AsyncCopy, batch_id: UUID) -> None:
        self._copy, self._batch_id = copy, batch_id
        self._sla, self._sla_fields = NO_LIMITS, _sla_fields(NO_LIMITS)
        self.first_deadline: datetime | None = None
        """The earliest deadline of the jobs that were written."""

    async def write(self, chunk: Sequence[JobInput]) -> None:
        """Send some jobs; about a thousand a call is fastest.

        Raises:
            InputError: A job holds a lone surrogate, which is no text.
        """
        try:
            block = self._block(chunk).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                "a job holds a lone surrogate",
                where=f"jobs {chunk[0].job_no} to {chunk[-1].job_no}",
                remedy="Remove or replace the character",
            ) from error
        await self._copy.write(block)

    def _block(self, chunk: Sequence[JobInput]) -> str:
        batch_id = str(self._batch_id)
        rows = []
        for job in chunk:
            if job.sla is not self._sla:  # rows of a file mostly share one record
                self._sla, self._sla_fields = job.sla, _sla_fields(job.sla)
                if job.sla.deadline is not None:
                    earlier = self.first_deadline or job.sla.deadline
                    self.first_deadline = min(earlier, job.sla.deadline)
            rows.append(
                f"{batch_id}\t{job.job_no}\t{escaped(job.custom_id)}\t{escaped(job.body_json)}"
                f"\t{self._sla_fields}"
            )
        return "".join(rows)


def _sla_fields(sla: SLA) -> str:
    values = (getattr(sla, name) for name in _LIMITS)
    return "\t".join(copy_field(_limit(value)) for value in values) + "\n"


def _limit(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Validators):
        return orjson.dumps(value.as_json()).decode()
    return array_literal(value) if isinstance(value, (tuple, list)) else value


@asynccontextmanager
async def copy_jobs(conn: AsyncConnection, batch_id: UUID) -> AsyncIterator[JobCopy]:
    """Copy a batch's jobs in; nothing is visible before the transaction commits.

    Args:
        conn: The submission's transaction, also of `batches.create` and `batches.seal`. It can
            run nothing else until this ends.
        batch_id: The batch.

    Yields:
        Where to write the jobs.
    """
    async with (
        conn.cursor() as cursor,
        cursor.copy(
            f"COPY jobs (batch_id, job_no, custom_id, body, {columns.listed(_LIMITS)}) FROM STDIN"
        ) as copy,
    ):
        job_copy = JobCopy(copy, batch_id)
        yield job_copy
    if job_copy.first_deadline is not None:
        await conn.execute(
            "UPDATE batches SET first_deadline = %s WHERE id = %s",
            [job_copy.first_deadline, batch_id],
        )


_JOB_COLUMNS = f"j.job_no, j.custom_id, j.body::text, {columns.listed(_LIMITS, of='j')}"


async def load_slice(
    conn: AsyncConnection, batch_id: UUID, first_job: int, job_count: int
) -> list[Job]:
    """Return jobs `first_job` .. `first_job + job_count - 1`, in order."""
    cursor = await conn.execute(
        f"""
        SELECT {_JOB_COLUMNS} FROM jobs j
        WHERE batch_id = %s AND job_no >= %s AND job_no < %s ORDER BY job_no
        """.encode(),
        [batch_id, first_job, first_job + job_count],
    )
    return [_job(row) for row in await cursor.fetchall()]


async def numbers_of(
    conn: AsyncConnection, batch_id: UUID, custom_ids: Sequence[str]
) -> dict[str, int]:
    """Return the numbers of a batch's jobs by their custom_ids; those that are jobs of it."""
    cursor = await conn.execute(
        "SELECT custom_id, job_no FROM jobs WHERE batch_id = %s AND custom_id = ANY(%s)",
        [batch_id, list(custom_ids)],
    )
    return dict(await cursor.fetchall())


async def load_some(conn: AsyncConnection, batch_id: UUID, numbers: Sequence[int]) -> list[Job]:
    """Return jobs of a batch by their numbers, in order."""
    if not numbers:
        return []
    # The range keeps the planner from reading the whole batch where it knows little of the table.
    cursor = await conn.execute(
        f"""
        SELECT {_JOB_COLUMNS} FROM jobs j
        WHERE batch_id = %s AND job_no BETWEEN %s AND %s AND job_no = ANY(%s) ORDER BY job_no
        """.encode(),
        [batch_id, min(numbers), max(numbers), list(numbers)],
    )
    return [_job(row) for row in await cursor.fetchall()]


async def find(conn: AsyncConnection, batch_id: UUID, custom_id: str) -> Job:
    """Return a job by its owner's key.

    Raises:
        NotFoundError: The batch has no such job.
    """
    cursor = await conn.execute(
        f"SELECT {_JOB_COLUMNS} FROM jobs j WHERE batch_id = %s AND custom_id = %s".encode(),
        [batch_id, custom_id],
    )
    row = await cursor.fetchone()
    if row is None:
        raise NotFoundError("the batch has no such job", value=custom_id, where=f"batch {batch_id}")
    return _job(row)


IS_OPEN = """NOT EXISTS (
        SELECT FROM results r WHERE r.batch_id = j.batch_id AND r.job_no = j.job_no)
      AND NOT EXISTS (
        SELECT FROM followers f WHERE f.batch_id = j.batch_id AND f.job_no = j.job_no)
      AND NOT EXISTS (
        SELECT FROM provider_rows m JOIN provider_batches b USING (marker)
        WHERE m.batch_id = j.batch_id AND m.job_no = j.job_no AND b.state <> 'closed')"""
"""Condition of a statement that a job `j` has no result, shares nobody's, and is at no provider."""
_PENDING = f"""
    SELECT a.model, first.model, p.quality, p.completion_tokens, t.attempts, t.cost_usd, a.probe,
           1 + (SELECT count(*) FROM followers f
                WHERE f.batch_id = j.batch_id AND f.leader_no = j.job_no), {_JOB_COLUMNS}
    FROM jobs j
    JOIN predictions p USING (batch_id, job_no)
    CROSS JOIN LATERAL (
        SELECT model, probe FROM assignments s
        WHERE s.batch_id = j.batch_id AND s.job_no = j.job_no
        ORDER BY revision DESC LIMIT 1
    ) a
    CROSS JOIN LATERAL (
        SELECT model FROM assignments s
        WHERE s.batch_id = j.batch_id AND s.job_no = j.job_no
        ORDER BY revision LIMIT 1
    ) first
    CROSS JOIN LATERAL (
        SELECT coalesce(max(attempt_no), 0) AS attempts, coalesce(sum(cost_usd), 0) AS cost_usd
        FROM attempts s WHERE s.batch_id = j.batch_id AND s.job_no = j.job_no
    ) t
    WHERE j.batch_id = %(batch_id)s AND j.job_no >= %(first)s AND j.job_no < %(end)s
      AND {IS_OPEN}
    ORDER BY j.job_no
""".encode()


async def pending(conn: AsyncConnection, lease: Lease) -> list[PendingJob]:
    """Return the jobs of a dispatch shard that were assigned a model and have no result yet.

    Jobs that share another's answer are not among them: they get their result with it.
    Nor are those that a provider's batch holds until it is closed.

    Args:
        conn: A transaction, after `lost_calls.write_off`: a call whose outcome a crash hid then
            counts as an attempt.
        lease: The shard.

    Returns:
        The jobs in order, with their latest assignment, their predictions and what was spent.
    """
    cursor = await conn.execute(
        _PENDING,
        {
            "batch_id": lease.key.batch_id,
            "first": lease.first_job,
            "end": lease.first_job + lease.job_count,
        },
    )
    return [_pending(row) for row in await cursor.fetchall()]


def _pending(row: tuple[Any, ...]) -> PendingJob:
    """Return a row of `_PENDING`."""
    model, planned_model, quality, completion_tokens, attempts, cost_usd, probe, serves, *job = row
    return PendingJob(
        _job(job),
        model,
        tuple(quality),
        tuple(completion_tokens),
        attempts,
        cost_usd,
        planned_model,
        probe,
        serves,
    )


def _job(row: Sequence[Any]) -> Job:
    """Return a row of `_JOB_COLUMNS`."""
    job_no, custom_id, body = row[:3]
    limits = tuple(row[3:])
    sla = NO_LIMITS if limits == _UNSET else SLA(*map(_read_limit, limits))
    return Job(job_no, custom_id, orjson.loads(body), sla)


def _read_limit(value: Any) -> Any:  # noqa: ANN401 - of any field of an SLA
    if isinstance(value, dict):
        return Validators.from_json(value)
    return tuple(value) if isinstance(value, list) else value
