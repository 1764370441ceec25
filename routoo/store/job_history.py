"""Everything that happened to one job: plans, calls and how it ended."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

_ASSIGNMENTS = """
    SELECT revision, model, expected_quality, expected_cost_usd FROM assignments
    WHERE batch_id = %s AND job_no = %s ORDER BY revision
"""
_CALLS = """
    SELECT attempt_no, model, status, http_status, cost_usd, latency_s, error_code, error_message
    FROM attempts WHERE batch_id = %s AND job_no = %s ORDER BY attempt_no
"""
_ENDING = """
    SELECT r.status, r.model, g.score AS quality, r.cost_usd, r.latency_s, r.error_code,
           r.error_message
    FROM results r LEFT JOIN grades g USING (batch_id, job_no)
    WHERE r.batch_id = %s AND r.job_no = %s
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """A model chosen for a job by one revision of the plan."""

    revision: int
    model: str
    expected_quality: float
    expected_cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A call that was made for a job."""

    attempt_no: int
    model: str
    status: str
    http_status: int | None
    cost_usd: Decimal
    latency_s: float | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended."""

    status: str
    model: str | None
    quality: float | None
    """What a grader gave, None where none has graded."""
    cost_usd: Decimal
    latency_s: float | None
    error_code: str | None
    error_message: str | None


@dataclass(frozen=True, slots=True)
class JobHistory:
    """What was decided for a job, and what became of it."""

    decisions: tuple[Decision, ...]
    """By rising revision; the last one counts."""
    calls: tuple[CallRecord, ...]
    ending: Ending | None
    """None while it has not ended."""


async def load_job_history(conn: AsyncConnection, batch_id: UUID, job_no: int) -> JobHistory:
    """Return what happened to a job so far."""
    key = [batch_id, job_no]
    async with conn.cursor(row_factory=class_row(Decision)) as cursor:
        decisions = await (await cursor.execute(_ASSIGNMENTS, key)).fetchall()
    async with conn.cursor(row_factory=class_row(CallRecord)) as cursor:
        calls = await (await cursor.execute(_CALLS, key)).fetchall()
    async with conn.cursor(row_factory=class_row(Ending)) as cursor:
        ending = await (await cursor.execute(_ENDING, key)).fetchone()
    return JobHistory(tuple(decisions), tuple(calls), ending)
