"""The last calls to a model, each beside what was foreseen of it."""

from dataclasses import dataclass
from datetime import datetime
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
       j.body::text, c.batch_id, c.created_at
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


async def recent_calls(
    conn: AsyncConnection, model: CandidateModel, limit: int
) -> list[MeasuredCall]:
    """Return the latest successful calls to a model at its endpoint, of any batch, oldest first.

    Args:
        conn: A connection.
        model: The candidate; calls of the same name to another endpoint don't count.
        limit: Most calls to look at.
    """
    cursor = await conn.execute(
        _RECENT,
        {
            "name": model.name,
            "base_url": model.endpoint.base_url,
            "model": model.model_at_endpoint,
            "bytes": _MOST_BODY_BYTES,
            "limit": limit,
        },
    )
    rows = await cursor.fetchall()
    return [
        MeasuredCall(prompt, completion, latency_s, predicted, orjson.loads(body), *whence)
        for prompt, completion, latency_s, predicted, body, *whence in rows
    ]
