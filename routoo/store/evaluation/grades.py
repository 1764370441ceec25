"""Grades: what graders made of the answers."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import class_row

from routoo.store.text import storable

_FETCH_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Grade:
    """One answer's grade."""

    job_no: int
    score: float | None
    """1 = right, in [0, 1]; None where the answer can be read in more than one way."""
    grader: str
    detail: str | None = None
    """What the grader compared."""


async def save(conn: AsyncConnection, batch_id: UUID, grades: Sequence[Grade]) -> None:
    """Save grades of a batch's jobs; a new grade of a job replaces the old one."""
    await conn.execute(
        """
        INSERT INTO grades (batch_id, job_no, score, grader, detail)
        SELECT %s, * FROM unnest(%s::int[], %s::real[], %s::text[], %s::text[])
        ON CONFLICT (batch_id, job_no) DO UPDATE SET score = excluded.score,
            grader = excluded.grader, detail = excluded.detail, created_at = excluded.created_at
        """,
        [
            batch_id,
            [grade.job_no for grade in grades],
            [grade.score for grade in grades],
            [grade.grader for grade in grades],
            [storable(grade.detail) for grade in grades],
        ],
    )


@dataclass(frozen=True, slots=True)
class Gradable:
    """A job that has ended, as a grader needs it."""

    job_no: int
    custom_id: str
    body_json: str
    """The request, as it was submitted."""
    answer: str | None
    """None where the job ended without one."""


async def iterate_gradable(conn: AsyncConnection, batch_id: UUID) -> AsyncIterator[Gradable]:
    """Stream the jobs of a batch that have ended, in input order.

    Args:
        conn: A transaction; what is streamed is its state at the start.
        batch_id: The batch.

    Yields:
        One record a job.
    """
    async with conn.cursor(f"gradable_{batch_id.hex}", row_factory=class_row(Gradable)) as cursor:
        cursor.itersize = _FETCH_ROWS
        await cursor.execute(
            """
            SELECT r.job_no, j.custom_id, j.body::text AS body_json, r.answer
            FROM results r JOIN jobs j USING (batch_id, job_no)
            WHERE r.batch_id = %s ORDER BY r.job_no
            """,
            [batch_id],
        )
        async for record in cursor:
            yield record


async def load_scores(conn: AsyncConnection, batch_id: UUID) -> dict[str, float]:
    """Return the grades of a batch's jobs by custom_id."""
    cursor = await conn.execute(
        """
        SELECT j.custom_id, g.score FROM grades g JOIN jobs j USING (batch_id, job_no)
        WHERE g.batch_id = %s AND g.score IS NOT NULL
        """,
        [batch_id],
    )
    return dict(await cursor.fetchall())
