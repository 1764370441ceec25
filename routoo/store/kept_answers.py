"""Answers that are kept until it is decided about them, and what was decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import orjson
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from routoo.domain.completion import (
    AnswerJudgement,
    Attempt,
    Completion,
    FinishReason,
    KeptAnswer,
    TokenProbabilities,
    Usage,
)
from routoo.domain.job import Lease
from routoo.store import columns
from routoo.store.encoding import json_rows, json_text, put_text_back, storable, without_text


@dataclass(slots=True)
class KeptAnswerRecord:
    """A row of `kept_answers`, without the batch: the one list of its columns."""

    job_no: int
    attempt_no: int
    answer: str
    response: dict[str, Any]
    finish_reason: str | None


_KEPT = columns.names(KeptAnswerRecord)
_SAVE = f"""
    INSERT INTO kept_answers (batch_id, {columns.listed(_KEPT)})
    SELECT %(batch_id)s, {columns.from_recordset(KeptAnswerRecord, _KEPT)}
    FROM {columns.recordset(KeptAnswerRecord)} ON CONFLICT DO NOTHING
""".encode()
_JUDGEMENT = columns.names(AnswerJudgement)
# A job that was left after a judgement is judged again by the next owner of its shard.
_SAVE_JUDGEMENTS = f"""
    INSERT INTO answer_judgements (batch_id, {columns.listed(_JUDGEMENT)})
    SELECT %(batch_id)s, {columns.listed(_JUDGEMENT)}
    FROM {columns.recordset(AnswerJudgement)}
    ON CONFLICT (batch_id, job_no, attempt_no) DO UPDATE SET
        {columns.assigned(name for name in _JUDGEMENT if name not in {"job_no", "attempt_no"})}
""".encode()
_LOAD = """
    SELECT a.*, k.answer, k.response::text AS response_text, k.finish_reason
    FROM kept_answers k JOIN attempts a USING (batch_id, job_no, attempt_no)
    WHERE k.batch_id = %s AND k.job_no >= %s AND k.job_no < %s
    ORDER BY k.job_no, k.attempt_no
"""


async def save(conn: AsyncConnection, lease: Lease, kept: Sequence[KeptAnswer]) -> None:
    """Keep answers; those that are kept already stay.

    Args:
        conn: A transaction that has proved the lease, and settles the answers' calls.
        lease: The dispatch shard.
        kept: The answers.
    """
    rows = [
        {
            "job_no": one.attempt.job_no,
            "attempt_no": one.attempt.attempt_no,
            "answer": (answer := storable(one.completion.answer)),
            "response": json_text(without_text(one.completion.body, answer)),
            "finish_reason": one.completion.finish_reason,
        }
        for one in kept
    ]
    await conn.execute(_SAVE, {"batch_id": lease.key.batch_id, "rows": json_rows(rows)})


async def save_judgements(
    conn: AsyncConnection, lease: Lease, judgements: Sequence[AnswerJudgement]
) -> None:
    """Record what was decided about answers; of an answer the last decision stands.

    Args:
        conn: A transaction that has proved the lease.
        lease: The dispatch shard.
        judgements: In the order in which they were made.
    """
    last = {(one.job_no, one.attempt_no): one for one in judgements}
    rows = [{**row_of(one), "fault": storable(one.fault)} for one in last.values()]
    await conn.execute(_SAVE_JUDGEMENTS, {"batch_id": lease.key.batch_id, "rows": json_rows(rows)})


def row_of(judgement: AnswerJudgement) -> dict[str, object]:
    """Return what the columns of a judgement hold, by name."""
    return {name: getattr(judgement, name) for name in _JUDGEMENT}


async def load(conn: AsyncConnection, lease: Lease) -> dict[int, list[KeptAnswer]]:
    """Return the kept answers of a shard's jobs by job number, in the order of their calls."""
    found: dict[int, list[KeptAnswer]] = {}
    key = [lease.key.batch_id, lease.first_job, lease.first_job + lease.job_count]
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_LOAD, key)
        async for row in cursor:
            found.setdefault(row["job_no"], []).append(_kept(row))
    return found


def _kept(row: dict[str, Any]) -> KeptAnswer:
    usage = Usage(
        row["prompt_tokens"] or 0,
        row["completion_tokens"] or 0,
        row["usage_estimated"],
        row["cached_prompt_tokens"] or 0,
        row["cache_write_tokens"] or 0,
    )
    attempt = Attempt(
        job_no=row["job_no"],
        attempt_no=row["attempt_no"],
        model=row["model"],
        status=row["status"],
        cost_usd=Decimal(row["cost_usd"]),
        latency_s=row["latency_s"],
        usage=usage,
        http_status=row["http_status"],
        probe=row["probe"],
        token_probabilities=TokenProbabilities.of_figures(row["token_probabilities"]),
    )
    return KeptAnswer(attempt, _completion(row, usage))


def _completion(row: dict[str, Any], usage: Usage) -> Completion:
    reason, response = row["finish_reason"], orjson.loads(row["response_text"])
    put_text_back(response, row["answer"])
    return Completion(
        row["answer"],
        response,
        usage,
        row["http_status"],
        row["latency_s"],
        None if reason is None else FinishReason(reason),
    )
