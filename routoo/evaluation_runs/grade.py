"""Grades the answers of a run, each by its item's grader."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.items import Item
from routoo.evaluation.graders.judge import JUDGE, JudgedAnswer
from routoo.evaluation.graders.recorded import grade_recorded
from routoo.evaluation.item_grading import grade_item
from routoo.store import run_results
from routoo.store.evaluation import eval_sets, grades
from routoo.store.evaluation.eval_runs import RunRecord
from routoo.store.evaluation.grades import Grade
from routoo.store.run_results import RunResult

_CHUNK = 500


@dataclass(slots=True)
class _Graded:
    """Grades of one batch, and what a judge must say before the rest can be graded."""

    grades: list[Grade] = field(default_factory=list)
    comparisons: list[JudgedAnswer] = field(default_factory=list)


async def grade_run(conn: AsyncConnection, run: RunRecord) -> list[JudgedAnswer]:
    """Grade both batches of a run; grading again replaces earlier grades.

    Every grade says how it came about. An answer that can be read in more than one way is kept
    with no score.

    Args:
        conn: A transaction.
        run: Its batches have ended.

    Returns:
        Answers that a judge must compare with their references.

    Raises:
        InputError: A reference does not suit its grader.
    """
    items = await eval_sets.load_items(conn, run.eval_set_id)
    asked: list[tuple[UUID, Sequence[int]]] = [(run.batch_id, range(len(items)))]
    if run.sample_batch_id is not None:
        asked.append((run.sample_batch_id, run.sample_items))
    comparisons: list[JudgedAnswer] = []
    for batch_id, positions in asked:
        found = await run_results.load(conn, batch_id)
        models = len(found) // len(positions)
        pairs = [(row, items[positions[row.job_no // models]]) for row in found]
        for start in range(0, len(pairs), _CHUNK):
            # Grading takes up to a millisecond an answer: not on the event loop.
            graded = await asyncio.to_thread(
                _grade_all, pairs[start : start + _CHUNK], run, batch_id
            )
            await grades.save(conn, batch_id, graded.grades)
            comparisons += graded.comparisons
    return comparisons


def _grade_all(pairs: Sequence[tuple[RunResult, Item]], run: RunRecord, batch_id: UUID) -> _Graded:
    graded = _Graded()
    for row, item in pairs:
        if row.answer is None:
            # A model that was asked alone and never called says nothing: no grade.
            if batch_id == run.batch_id or row.status == "failed":
                graded.grades.append(Grade(row.job_no, 0.0, "none", "the job has no answer"))
        elif run.recorded:
            given = grade_recorded(row.answer)
            graded.grades.append(Grade(row.job_no, given.score, "recorded", given.detail))
        elif item.grader == JUDGE and item.answer is not None:
            graded.comparisons.append(JudgedAnswer(batch_id, row.job_no, item, row.answer))
        else:
            given = grade_item(item, row.answer)
            name = item.grader or "default"
            graded.grades.append(Grade(row.job_no, given.score, name, given.detail))
    return graded
