"""Keeps answers of earlier calls, for batches that ask for the response cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from psycopg import AsyncConnection

from routoo.domain.completion import Completion, FinishReason, Usage
from routoo.store.encoding import json_rows, json_text, put_text_back, storable, without_text

_OK = 200


@dataclass(frozen=True, slots=True)
class CachedAnswer:
    """An answer to be kept."""

    key: bytes
    """Digest of model and request."""
    model: str
    completion: Completion


_LOOK_UP = b"""
    SELECT key, answer, response::text, prompt_tokens, completion_tokens, finish_reason
    FROM response_cache
    WHERE key = ANY(%s) AND expires_at > clock_timestamp()
      AND created_at > clock_timestamp() - make_interval(secs => %s)
"""


async def look_up(
    conn: AsyncConnection, keys: Sequence[bytes], oldest_s: float
) -> Mapping[bytes, Completion]:
    """Return the answers that are kept for some requests.

    Args:
        conn: A connection.
        keys: Digests of model and request.
        oldest_s: An answer older than this is not wanted, in seconds.

    Returns:
        Completions by key, with no latency; keys without an answer are left out.
    """
    cursor = await conn.execute(_LOOK_UP, [list(keys), oldest_s])
    return {key: _completion(*values) async for key, *values in cursor}


def _completion(
    answer: str, response: str, prompt: int, completion: int, reason: str | None
) -> Completion:
    body = orjson.loads(response)
    put_text_back(body, answer)
    return Completion(
        answer,
        body,
        Usage(prompt, completion),
        _OK,
        latency_s=0.0,
        finish_reason=None if reason is None else FinishReason(reason),
    )


_KEEP = b"""
    INSERT INTO response_cache AS kept (key, model, answer, response, prompt_tokens,
                                        completion_tokens, finish_reason, expires_at)
    SELECT DISTINCT ON (key) decode(key, 'hex'), model, answer, response::json, prompt_tokens,
        completion_tokens, finish_reason, clock_timestamp() + make_interval(secs => %s)
    FROM json_to_recordset(%s::json) AS row(
        key text, model text, answer text, response text, prompt_tokens int,
        completion_tokens int, finish_reason text)
    ORDER BY key
    ON CONFLICT (key) DO UPDATE SET answer = excluded.answer, response = excluded.response,
        prompt_tokens = excluded.prompt_tokens, expires_at = excluded.expires_at,
        completion_tokens = excluded.completion_tokens, created_at = excluded.created_at,
        finish_reason = excluded.finish_reason
    WHERE kept.expires_at <= clock_timestamp()
"""


async def keep(conn: AsyncConnection, answers: Sequence[CachedAnswer], ttl_s: float) -> None:
    """Keep answers; one that is kept already stays until it expires.

    Args:
        conn: A transaction.
        answers: Answers with usage as the endpoint reported it.
        ttl_s: How long they may be given out, in seconds.
    """
    # In one order, so that two dispatchers that keep the same answers don't wait for each other.
    rows = sorted((_row(answer) for answer in answers), key=lambda row: str(row["key"]))
    await conn.execute(_KEEP, [ttl_s, json_rows(rows)])


def _row(answer: CachedAnswer) -> dict[str, object]:
    completion = answer.completion
    text = storable(completion.answer)
    return {
        "key": answer.key.hex(),
        "model": answer.model,
        "answer": text,
        "response": json_text(without_text(completion.body, text)),
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
        "finish_reason": completion.finish_reason,
    }


async def purge(conn: AsyncConnection) -> int:
    """Delete what has expired, and return how many answers that were."""
    cursor = await conn.execute("DELETE FROM response_cache WHERE expires_at <= clock_timestamp()")
    return cursor.rowcount
