"""Grades the answers of a run: each by its item's grader, or by a model that judges.

A judge compares an answer with its item's reference. It is asked in an ordinary batch of its own
endpoint, with a budget of its own.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.items import Item
from routoo.domain.pool import CandidateModel, Pool
from routoo.evaluation.graders.judge import (
    JUDGE,
    MAX_TOKENS,
    JudgedAnswer,
    grade_verdicts,
    judge_request,
)
from routoo.evaluation.graders.recorded import grade_recorded
from routoo.evaluation.item_grading import grade_item
from routoo.evaluation_runs.begin import write_batch
from routoo.store import batches, prescored
from routoo.store.evaluation import eval_runs, eval_sets, grades
from routoo.store.evaluation.eval_runs import RunRecord, RunResult
from routoo.store.evaluation.grades import GradeRecord

_ANSWERS_PER_CALL = 500
"""Answers graded in one call of a thread."""
_JUDGE_BATCH_KIND = "judgement"
_NO_JUDGE = "no judge was named: pass --judge"


@dataclass(slots=True)
class _Graded:
    """Grades of some answers, and the comparisons that a judge must make for the others."""

    grades: list[GradeRecord] = field(default_factory=list)
    comparisons: list[JudgedAnswer] = field(default_factory=list)


async def grade_run(conn: AsyncConnection, run: RunRecord) -> list[JudgedAnswer]:
    """Grade both batches of a run; grading again replaces earlier grades.

    Every grade says which grader gave it and why. An ambiguous answer has a grade without a score.

    Args:
        conn: A transaction.
        run: A run whose batches have ended.

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
        found = await eval_runs.load_results(conn, batch_id)
        models = len(found) // len(positions)
        pairs = [(row, items[positions[row.job_no // models]]) for row in found]
        for start in range(0, len(pairs), _ANSWERS_PER_CALL):
            # Grading takes up to a millisecond an answer, so a thread does it.
            graded = await asyncio.to_thread(
                _grade_all, pairs[start : start + _ANSWERS_PER_CALL], run, batch_id
            )
            await grades.save(conn, batch_id, graded.grades)
            comparisons += graded.comparisons
    return comparisons


def _grade_all(pairs: Sequence[tuple[RunResult, Item]], run: RunRecord, batch_id: UUID) -> _Graded:
    graded = _Graded()
    for row, item in pairs:
        if row.answer is None:
            # A sampled job that was never called measures nothing, so it gets no grade.
            if batch_id == run.batch_id or row.status == "failed":
                graded.grades.append(GradeRecord(row.job_no, 0.0, "none", "the job has no answer"))
        elif run.recorded:
            given = grade_recorded(row.answer)
            graded.grades.append(GradeRecord(row.job_no, given.score, "recorded", given.detail))
        elif item.grader == JUDGE and item.answer is not None:
            graded.comparisons.append(JudgedAnswer(batch_id, row.job_no, item, row.answer))
        else:
            given = grade_item(item, row.answer)
            name = item.grader or "default"
            graded.grades.append(GradeRecord(row.job_no, given.score, name, given.detail))
    return graded


async def ask_judge(
    conn: AsyncConnection, run: RunRecord, comparisons: Sequence[JudgedAnswer], shard_size: int
) -> UUID | None:
    """Write the judge's batch, two jobs for each comparison.

    Returns:
        The batch's id; None where the run names no judge: then the answers stay ungraded, and their
        grades say why.
    """
    if run.judge is None:
        for one in comparisons:
            await grades.save(conn, one.batch_id, [GradeRecord(one.job_no, None, JUDGE, _NO_JUDGE)])
        return None
    judge = CandidateModel.model_validate(run.judge["model"])
    budget = run.judge.get("budget_usd")
    new = batches.NewBatch(
        "judge",
        Pool(models=(judge,)),
        _JUDGE_BATCH_KIND,
        budget_usd=None if budget is None else Decimal(budget),
    )
    requests = list(_requests(comparisons))
    batch_id = await write_batch(conn, new, requests, shard_size)
    await prescored.skip_scoring(conn, batch_id, 1, MAX_TOKENS)
    return batch_id


def _requests(comparisons: Sequence[JudgedAnswer]) -> Iterator[tuple[str, dict[str, object]]]:
    for number, one in enumerate(comparisons):
        yield f"{number}:reference-first", judge_request(one, reference_first=True)
        yield f"{number}:answer-first", judge_request(one, reference_first=False)


async def grade_judged(
    conn: AsyncConnection, judge_batch_id: UUID, comparisons: Sequence[JudgedAnswer]
) -> None:
    """Grade answers by the judge's verdicts.

    Args:
        conn: A transaction.
        judge_batch_id: The judge's batch, which has ended.
        comparisons: What the judge compared, in the order of `ask_judge`.
    """
    answers = [row.answer for row in await eval_runs.load_results(conn, judge_batch_id)]
    graded: dict[UUID, list[GradeRecord]] = {}
    for one, first, second in zip(comparisons, answers[::2], answers[1::2], strict=True):
        grade = grade_verdicts(first, second)
        graded.setdefault(one.batch_id, []).append(
            GradeRecord(one.job_no, grade.score, JUDGE, grade.detail)
        )
    for batch_id, found in graded.items():
        await grades.save(conn, batch_id, found)
