"""How the latest calls of one batch to a model ended, and the jobs that they were made for."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg import AsyncConnection

_MODELS_LAST_CALLS = 1000
"""Of any batch: whoever looks for one batch's among them must not read the whole history."""
_PACE = ["rate_limited", "hedge_lost"]
"""Calls that came too early, or were no longer wanted: they tell nothing of the model."""

_OUTCOMES = """
WITH calls AS (
    SELECT job_no, attempt_no, status, cost_usd FROM (
        SELECT * FROM attempts WHERE model = %(model)s AND created_at > %(since)s
        ORDER BY created_at DESC LIMIT %(limit)s
    ) AS last
    WHERE batch_id = %(batch_id)s AND status <> 'lost' AND coalesce(error_code, '') <> ALL(%(pace)s)
), asked AS (
    SELECT job_no, max(attempt_no) AS attempt_no, bool_or(status = 'succeeded') AS answered
    FROM calls GROUP BY job_no
), ended AS (
    SELECT answered FROM asked a WHERE answered
        OR EXISTS (SELECT FROM results r WHERE r.batch_id = %(batch_id)s AND r.job_no = a.job_no)
        OR EXISTS (SELECT FROM attempts t WHERE t.batch_id = %(batch_id)s AND t.job_no = a.job_no
                   AND t.attempt_no > a.attempt_no AND t.model <> %(model)s)
)
SELECT (SELECT count(*) FROM calls),
       (SELECT count(*) FROM calls WHERE status = 'failed'),
       (SELECT coalesce(sum(cost_usd), 0)::float FROM calls WHERE status = 'failed'),
       (SELECT count(*) FROM ended),
       (SELECT count(*) FROM ended WHERE NOT answered)
"""


@dataclass(frozen=True, slots=True)
class CallOutcomes:
    """Some calls of a batch to one model."""

    calls: int
    """Answered or failed; not those that were lost in a crash, or told to come later."""
    failed: int
    """Of these calls."""
    failed_usd: float
    """What the failed ones may have been billed."""
    jobs: int
    """Jobs of these calls that the model has answered, or that went on without its answer."""
    unanswered: int
    """Of these jobs, those that went on without."""


NO_CALLS = CallOutcomes(calls=0, failed=0, failed_usd=0.0, jobs=0, unanswered=0)


async def outcomes_since(
    conn: AsyncConnection, batch_id: UUID, model: str, since: datetime
) -> CallOutcomes:
    """Return how a batch's latest calls to a model went.

    Args:
        conn: A connection.
        batch_id: The batch.
        model: Name of the candidate model.
        since: Calls that ended before don't count.
    """
    cursor = await conn.execute(
        _OUTCOMES,
        {
            "batch_id": batch_id,
            "model": model,
            "since": since,
            "limit": _MODELS_LAST_CALLS,
            "pace": _PACE,
        },
    )
    row = await cursor.fetchone()
    return CallOutcomes(*row) if row else NO_CALLS
