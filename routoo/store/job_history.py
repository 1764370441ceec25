"""Reads everything that happened to one job: plans, calls and how it ended."""

from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.completion import AnswerJudgement
from routoo.store import columns


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model chosen for a job by one revision of the plan."""

    revision: int
    model: str
    expected_quality: float
    expected_cost_usd: Decimal
    probe: bool
    """Its answer is judged, and another model may be asked."""
    escalation_chance: float
    """Probability of that, as planned."""


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
    probe: bool
    """Its answer was judged before it was accepted."""


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
    decision: str
    """How its answer came about."""


@dataclass(frozen=True, slots=True)
class JobHistory:
    """What was decided for a job, and what became of it."""

    decisions: tuple[ModelChoice, ...]
    """By rising revision; the last one counts."""
    calls: tuple[CallRecord, ...]
    judgements: tuple[AnswerJudgement, ...]
    """Decisions about answers, in the order of their calls."""
    ending: Ending | None
    """None while it has not ended."""

    @property
    def compared(self) -> frozenset[int]:
        """Numbers of the calls whose answer was to be compared with an earlier one."""
        wanted = [(one.attempt_no, one.next_model) for one in self.judgements]
        return frozenset(
            call.attempt_no
            for call in self.calls
            if call.probe
            and any(no < call.attempt_no and model == call.model for no, model in wanted)
        )


# A grade is the quality that a job turned out to have.
_ENDING = """
    (SELECT r.*, g.score AS quality FROM results r LEFT JOIN grades g USING (batch_id, job_no)
     WHERE r.batch_id = %s AND r.job_no = %s) AS ended
"""


async def load_job_history(conn: AsyncConnection, batch_id: UUID, job_no: int) -> JobHistory:
    """Return what happened to a job so far."""
    key = [batch_id, job_no]
    of_job = "WHERE batch_id = %s AND job_no = %s ORDER BY"
    decisions = await columns.select(conn, ModelChoice, f"assignments {of_job} revision", key)
    calls = await columns.select(conn, CallRecord, f"attempts {of_job} attempt_no", key)
    ending = await columns.select(conn, Ending, _ENDING, key)
    judged = f"answer_judgements {of_job} attempt_no"
    judgements = await columns.select(conn, AnswerJudgement, judged, key)
    ended = ending[0] if ending else None
    return JobHistory(tuple(decisions), tuple(calls), tuple(judgements), ended)


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job as a list shows it."""

    job_no: int
    custom_id: str
    prompt: str | None
    """How its last message begins."""
    status: str | None
    """None while it has no result, and then so are the others."""
    model: str | None
    cost_usd: Decimal | None
    error_code: str | None
    error_message: str | None
    reason: str | None
    """Why another model than planned answered."""
    quality_change: float | None
    decision: str | None


_JOB_LINES = """
(SELECT j.job_no, j.custom_id, left(j.body #>> '{messages,-1,content}', 200) AS prompt, r.status,
        r.model, r.cost_usd, r.error_code, left(r.error_message, 300) AS error_message, r.reason,
        r.quality_change, r.decision
 FROM (%s) AS shown JOIN jobs j ON j.batch_id = %%(id)s AND j.job_no = shown.job_no
 LEFT JOIN results r ON r.batch_id = %%(id)s AND r.job_no = shown.job_no
) AS line ORDER BY job_no
"""
_EVERY = "SELECT job_no FROM jobs WHERE batch_id = %(id)s"
_UNANSWERED = "SELECT job_no FROM results WHERE batch_id = %(id)s AND status <> 'succeeded'"
_OF_CAUSE = f"""
    {_UNANSWERED} AND error_code = %(cause)s
    UNION ALL {_UNANSWERED} AND error_code IS NULL AND status = %(cause)s
"""
_DEVIATED = "SELECT job_no FROM results WHERE batch_id = %(id)s AND reason IS NOT NULL"


async def list_jobs(
    conn: AsyncConnection,
    batch_id: UUID,
    *,
    show: str = "all",
    cause: str | None = None,
    first: int = 0,
    limit: int = 50,
) -> list[JobLine]:
    """Return jobs of a batch in their order, from a position on.

    Args:
        conn: A connection.
        batch_id: The batch.
        show: all, unanswered (ended without an answer) or deviated (answered by another model than
            planned).
        cause: Error code, or status where there is none, of those that are unanswered.
        first: Least job_no.
        limit: Most jobs.
    """
    unanswered = _UNANSWERED if cause is None else _OF_CAUSE
    found = {"unanswered": unanswered, "deviated": _DEVIATED}.get(show, _EVERY)
    shown = (
        f"SELECT job_no FROM ({found}) AS f WHERE job_no >= %(first)s ORDER BY job_no"
        " LIMIT %(limit)s"
    )
    values = {"id": batch_id, "cause": cause, "first": first, "limit": limit}
    return await columns.select(conn, JobLine, _JOB_LINES % shown, values)
