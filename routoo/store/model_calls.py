"""Reads the last calls to a model: outcomes, what was predicted, whether the model answers now."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg import AsyncConnection

from routoo.domain.pool import CandidateModel

_MOST_BODY_BYTES = 20_000
"""Larger requests, as stored, are left out: reading hundreds of them must stay cheap."""

# The calls come first and by the index; whether they went to the same endpoint is asked of those.
_RECENT = """
SELECT c.prompt_tokens, c.completion_tokens, c.latency_s, p.completion_tokens[m.place::int],
       j.body::text, c.batch_id, c.created_at,
       (SELECT count(*) FROM checkpoint_promotions WHERE promoted_at <= b.created_at)
       = (SELECT count(*) FROM checkpoint_promotions WHERE promoted_at <= %(at)s)
FROM (
    SELECT * FROM attempts WHERE model = %(name)s AND status = 'succeeded' AND NOT usage_estimated
    ORDER BY created_at DESC LIMIT %(limit)s
) AS c
JOIN batches b ON b.id = c.batch_id
JOIN jobs j USING (batch_id, job_no)
JOIN predictions p USING (batch_id, job_no)
CROSS JOIN LATERAL (
    SELECT place FROM jsonb_array_elements(b.pool -> 'models') WITH ORDINALITY AS e (model, place)
    WHERE e.model ->> 'name' = %(name)s
      AND e.model #>> '{endpoint,base_url}' = %(base_url)s
      AND coalesce(e.model #>> '{endpoint,model}', e.model ->> 'name') = %(model)s
) AS m
WHERE pg_column_size(j.body) <= %(bytes)s
ORDER BY c.created_at
"""


@dataclass(frozen=True, slots=True)
class MeasuredCall:
    """A call that was answered and billed, and what was predicted of it."""

    prompt_tokens: int
    """Billed."""
    completion_tokens: int
    """Billed."""
    latency_s: float
    predicted_completion_tokens: float
    """By the predictor, before any correction."""
    body: dict[str, Any]
    """The request."""
    batch_id: UUID
    ended_at: datetime
    same_checkpoint: bool = True
    """Whether no other checkpoint was put into use between this call's batch and the one asked for:
    else its prediction says nothing of the predictions that are made now."""


async def recent_calls(
    conn: AsyncConnection, model: CandidateModel, limit: int, at: datetime | None = None
) -> list[MeasuredCall]:
    """Return the latest successful calls to a model at its endpoint, of any batch, oldest first.

    Args:
        conn: A connection.
        model: The candidate; calls of the same name to another endpoint don't count.
        limit: Most calls to look at.
        at: When the batch was made that they are compared with; None for now.
    """
    names = {"name": model.name, "model": model.model_at_endpoint}
    values = {**names, "base_url": model.endpoint.base_url, "bytes": _MOST_BODY_BYTES}
    cursor = await conn.execute(_RECENT, {**values, "limit": limit, "at": at or datetime.now(UTC)})
    rows = await cursor.fetchall()
    return [
        MeasuredCall(prompt, completion, latency_s, predicted, orjson.loads(body), *whence)
        for prompt, completion, latency_s, predicted, body, *whence in rows
    ]


_MODELS_LAST_CALLS = 1000
"""Calls looked at, of any batch: a search for one batch's calls must not read the whole history."""
_NOT_THE_MODELS_FAULT = ["rate_limited", "hedge_lost"]
"""Errors of calls that came too early or were no longer wanted: they say nothing of the model."""

_OUTCOMES = """
WITH calls AS (
    SELECT job_no, attempt_no, status, cost_usd FROM (
        SELECT * FROM attempts WHERE model = %(model)s AND created_at > %(since)s
        ORDER BY created_at DESC LIMIT %(limit)s
    ) AS last
    WHERE batch_id = %(batch_id)s AND status <> 'lost'
      AND coalesce(error_code, '') <> ALL(%(ignored)s)
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
class ModelCalls:
    """Some calls of a batch to one model."""

    calls: int
    """Answered or failed; not those that were lost in a crash, or refused by a rate limit."""
    failed: int
    """Of these calls."""
    failed_usd: float
    """What the failed ones may have been billed."""
    jobs: int
    """Jobs of these calls that the model has answered, or that went on without its answer."""
    unanswered: int
    """Of these jobs, those that went on without."""


NO_CALLS = ModelCalls(calls=0, failed=0, failed_usd=0.0, jobs=0, unanswered=0)


async def calls_since(
    conn: AsyncConnection, batch_id: UUID, model: str, since: datetime
) -> ModelCalls:
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
            "ignored": _NOT_THE_MODELS_FAULT,
        },
    )
    row = await cursor.fetchone()
    return ModelCalls(*row) if row else NO_CALLS


_LAST_CALLS = 20
_WINDOW = "1 minute"
_FEWEST = 5
"""Fewer calls than this are no evidence."""
_DOWN_SHARE = 0.9
_ENDPOINTS_FAULT = ["endpoint_unavailable", "endpoint_timeout", "invalid_response"]


@dataclass(frozen=True, slots=True)
class Health:
    """The last calls to a model, of any batch."""

    calls: int
    failures: int
    """Of these, the ones that failed through a fault of the endpoint."""

    @property
    def down(self) -> bool:
        """Whether the endpoint doesn't answer; one that nobody called for a minute counts as up."""
        return self.calls >= _FEWEST and self.failures >= _DOWN_SHARE * self.calls


async def is_down(conn: AsyncConnection, model: CandidateModel) -> bool:
    """Return whether a model can't be asked: its breakers are open, or its last calls failed.

    A breaker that was due for a probe a minute ago counts as closed: someone has to try.
    """
    keys = list(model.endpoint_keys)
    cursor = await conn.execute(
        """
        SELECT count(*) FROM endpoints
        WHERE endpoint = ANY(%s) AND (account #>> '{breaker,pause_s}')::float > 0
          AND extract(epoch FROM clock_timestamp() - %s::interval)
              < (account #>> '{breaker,open_until_s}')::float
        """,
        [keys, _WINDOW],
    )
    row = await cursor.fetchone()
    return (row is not None and row[0] == len(keys)) or (await health(conn, model.name)).down


async def health(conn: AsyncConnection, model: str) -> Health:
    """Return how the last calls to a model went."""
    cursor = await conn.execute(
        """
        SELECT count(*), count(*) FILTER (WHERE status = 'failed' AND error_code = ANY(%s))
        FROM (
            SELECT status, error_code FROM attempts
            WHERE model = %s AND created_at > clock_timestamp() - %s::interval
            ORDER BY created_at DESC LIMIT %s
        ) AS last
        """,
        [_ENDPOINTS_FAULT, model, _WINDOW, _LAST_CALLS],
    )
    row = await cursor.fetchone()
    return Health(*row) if row else Health(0, 0)
