"""Grades: what graders made of the answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection

from routoo.store.text import storable


@dataclass(frozen=True, slots=True)
class Grade:
    """One answer's grade."""

    job_no: int
    score: float
    """1 = right, in [0, 1]."""
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
