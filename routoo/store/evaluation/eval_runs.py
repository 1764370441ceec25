"""Evaluation runs: begun with their batches, graded when those have ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from routoo.errors import InputError
from routoo.store import columns

_FETCH_ROWS = 1_000
_SHORTEST_PREFIX = 4
"""Characters of an id that may stand for it."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the store knows it."""

    id: UUID
    eval_set_id: UUID
    schedule_id: UUID | None
    batch_id: UUID
    sample_batch_id: UUID | None
    judge_batch_id: UUID | None
    mode: str
    recorded: bool
    sample_items: list[int]
    """Positions in the set of the items that every candidate answers."""
    judge: dict[str, Any] | None
    checkpoint_sha256: str | None
    state: str
    """running, judging, finished or failed."""
    figures: dict[str, Any] | None
    error: str | None
    created_at: datetime
    finished_at: datetime | None

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen to the run any more."""
        return self.state in {"finished", "failed"}


async def insert(conn: AsyncConnection, run: dict[str, Any]) -> None:
    """Write a new run, its columns by name."""
    judge = run.get("judge")
    values = run | {"judge": None if judge is None else Jsonb(judge)}
    await conn.execute(columns.insert("eval_runs", values), values)


async def get(conn: AsyncConnection, run_id: UUID) -> RunRecord:
    """Return a run.

    Raises:
        NotFoundError: There is none with this id.
    """
    found = await _select(conn, "WHERE id = %s", [run_id])
    return columns.only(found, "run", run_id)


async def find(conn: AsyncConnection, text: str | None) -> RunRecord:
    """Return the run that a person means: by id, start of an id, batch id or name, or the latest.

    Raises:
        NotFoundError: None matches.
        InputError: Several ids start so.
    """
    newest = "ORDER BY created_at DESC, id LIMIT 2"
    if text is None:
        found = (await _select(conn, newest, []))[:1]
    else:
        named = "batch_id IN (SELECT id FROM batches WHERE name = %s)"
        found = (await _select(conn, f"WHERE {named} {newest}", [text]))[:1]
        if not found and len(text) >= _SHORTEST_PREFIX:
            start = "starts_with(id::text, %s) OR starts_with(batch_id::text, %s)"
            found = await _select(conn, f"WHERE {start} {newest}", [text.lower(), text.lower()])
    if len(found) > 1:
        raise InputError("several runs have such an id", value=text, remedy="Give more of it")
    return columns.only(found, "run", text, remedy="`routoo-producer eval list` shows them")


async def list_recent(conn: AsyncConnection, limit: int) -> list[RunRecord]:
    """Return the newest runs, newest first."""
    return await _select(conn, "ORDER BY created_at DESC, id LIMIT %s", [limit])


async def due(conn: AsyncConnection) -> list[UUID]:
    """Return runs whose next step is due: every batch that they wait for has ended."""
    cursor = await conn.execute(
        """
        SELECT id FROM eval_runs r WHERE state IN ('running', 'judging') AND NOT EXISTS (
            SELECT FROM batches b WHERE b.status NOT IN ('completed', 'failed', 'cancelled')
            AND b.id IN (r.batch_id, r.sample_batch_id, r.judge_batch_id))
        ORDER BY created_at
        """
    )
    return [row[0] async for row in cursor]


async def claim(conn: AsyncConnection, run_id: UUID) -> RunRecord | None:
    """Lock a run that is not over until the transaction ends; None where another has it."""
    condition = "WHERE id = %s AND state IN ('running', 'judging') FOR UPDATE SKIP LOCKED"
    found = await _select(conn, condition, [run_id])
    return found[0] if found else None


async def judge(conn: AsyncConnection, run_id: UUID, judge_batch_id: UUID) -> None:
    """Say that a run waits for its judge."""
    await conn.execute(
        "UPDATE eval_runs SET state = 'judging', judge_batch_id = %s WHERE id = %s",
        [judge_batch_id, run_id],
    )


async def finish(conn: AsyncConnection, run_id: UUID, figures: dict[str, Any]) -> None:
    """Say that a run is graded, with its figures."""
    await conn.execute(
        """
        UPDATE eval_runs SET state = 'finished', figures = %s, finished_at = clock_timestamp()
        WHERE id = %s
        """,
        [Jsonb(figures), run_id],
    )


async def fail(conn: AsyncConnection, run_id: UUID, error: str) -> None:
    """Say that a run came to nothing, and why."""
    await conn.execute(
        """
        UPDATE eval_runs SET state = 'failed', error = %s, finished_at = clock_timestamp()
        WHERE id = %s
        """,
        [error, run_id],
    )


async def history(conn: AsyncConnection, run: RunRecord, limit: int) -> list[RunRecord]:
    """Return earlier finished runs that a run may be compared with, newest first.

    They belong to the same schedule, or for a run by hand to none, asked the same version of the
    same set, and had the same aim and budget.
    """
    return await _select(
        conn,
        """
        WHERE state = 'finished' AND eval_set_id = %s AND schedule_id IS NOT DISTINCT FROM %s
          AND recorded = %s AND created_at < %s
          AND EXISTS (SELECT FROM batches own, batches other
            WHERE own.id = %s AND other.id = eval_runs.batch_id
              AND own.objective IS NOT DISTINCT FROM other.objective
              AND own.budget_usd IS NOT DISTINCT FROM other.budget_usd)
        ORDER BY created_at DESC LIMIT %s
        """,
        [run.eval_set_id, run.schedule_id, run.recorded, run.created_at, run.batch_id, limit],
    )


async def _select(conn: AsyncConnection, condition: str, values: Sequence[Any]) -> list[RunRecord]:
    return await columns.select(conn, RunRecord, f"eval_runs {condition}", values)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How one job of a run ended."""

    job_no: int
    status: str | None
    """None where the job has not ended."""
    model: str | None
    answer: str | None
    answer_sha256: str | None
    cost_usd: float | None
    latency_s: float | None
    decision: str | None
    """How the answer came about: direct, accepted, escalated or kept."""
    judged_quality: float | None
    """Chance that the answer is good as it was known when it was taken; None for direct ones."""
    chosen: str | None
    """Model of the latest plan."""
    probe: bool | None
    """Whether its answer was to be judged."""
    expected_cost_usd: float | None
    """Of all calls that the plan expects."""
    graded: bool
    """Whether a grader has seen the job."""
    score: float | None
    """What it gave; None where the answer is ambiguous."""


async def recorded_scores(conn: AsyncConnection, batch_id: UUID, key: str) -> dict[int, str]:
    """Return what the responses to a batch's jobs have under a key; jobs without it are left out.

    Args:
        conn: A transaction.
        batch_id: A batch whose answers were replayed.
        key: Field of the response.
    """
    told: dict[int, str] = {}
    # Taken apart here: PostgreSQL refuses every field of JSON that holds a NUL anywhere.
    async with conn.cursor(f"scores_{batch_id.hex}") as cursor:
        cursor.itersize = _FETCH_ROWS
        await cursor.execute(
            "SELECT job_no, response::text FROM results"
            " WHERE batch_id = %s AND response IS NOT NULL",
            [batch_id],
        )
        async for job_no, response in cursor:
            if (value := orjson.loads(response).get(key)) is not None:
                told[job_no] = str(value)
    return told


async def load_results(conn: AsyncConnection, batch_id: UUID) -> list[RunResult]:
    """Return a row for every job of a batch, in order of job_no."""
    async with conn.cursor(row_factory=class_row(RunResult)) as cursor:
        await cursor.execute(
            """
            SELECT j.job_no, r.status, r.model, r.answer,
                   encode(sha256(convert_to(r.answer, 'UTF8')), 'hex') AS answer_sha256,
                   r.cost_usd::float8 AS cost_usd, r.latency_s, r.decision,
                   CASE WHEN r.decision <> 'direct' THEN r.expected_quality END AS judged_quality,
                   a.model AS chosen, a.probe, a.expected_cost_usd::float8 AS expected_cost_usd,
                   g.job_no IS NOT NULL AS graded, g.score
            FROM jobs j
            LEFT JOIN results r USING (batch_id, job_no)
            LEFT JOIN grades g USING (batch_id, job_no)
            LEFT JOIN LATERAL (
                SELECT model, probe, expected_cost_usd FROM assignments s
                WHERE s.batch_id = j.batch_id AND s.job_no = j.job_no
                ORDER BY revision DESC LIMIT 1
            ) a ON true
            WHERE j.batch_id = %s ORDER BY j.job_no
            """,
            [batch_id],
        )
        return await cursor.fetchall()
