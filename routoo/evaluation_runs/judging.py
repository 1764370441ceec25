"""Has a judge compare answers: an ordinary batch to the judge's endpoint, within its own budget."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from uuid import UUID

from psycopg import AsyncConnection

from routoo.domain.pool import CandidateModel, Pool
from routoo.evaluation.graders.judge import JUDGE, MAX_TOKENS, JudgedAnswer, judge_request, settle
from routoo.evaluation_runs.write import write_batch
from routoo.store import batches, prescored, run_results
from routoo.store.evaluation import grades
from routoo.store.evaluation.eval_runs import RunRecord
from routoo.store.evaluation.grades import Grade

KIND = "judgement"
"""Kind of a judge's batches."""
NO_JUDGE = "no judge was named: pass --judge"


async def ask_judge(
    conn: AsyncConnection, run: RunRecord, comparisons: Sequence[JudgedAnswer], shard_size: int
) -> UUID | None:
    """Write the judge's batch, two jobs a comparison; None where the run names no judge.

    Without a judge the answers stay ungraded, and their grades say why.
    """
    if run.judge is None:
        for one in comparisons:
            await grades.save(conn, one.batch_id, [Grade(one.job_no, None, JUDGE, NO_JUDGE)])
        return None
    judge = CandidateModel.model_validate(run.judge["model"])
    budget = run.judge.get("budget_usd")
    new = batches.NewBatch(
        "judge",
        Pool(models=(judge,)),
        KIND,
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
    """Grade the answers by what the judge said of them.

    Args:
        conn: A transaction.
        judge_batch_id: The judge's batch, ended.
        comparisons: What it was asked, in the same order.
    """
    said = [row.answer for row in await run_results.load(conn, judge_batch_id)]
    graded: dict[UUID, list[Grade]] = {}
    for one, first, second in zip(comparisons, said[::2], said[1::2], strict=True):
        given = settle(first, second)
        graded.setdefault(one.batch_id, []).append(
            Grade(one.job_no, given.score, JUDGE, given.detail)
        )
    for batch_id, found in graded.items():
        await grades.save(conn, batch_id, found)
