"""Finishes runs whose batches have ended: grades them and compares them with earlier runs."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from routoo.domain.items import Item
from routoo.domain.job import BatchStatus
from routoo.domain.pool import CandidateModel, Pool
from routoo.errors import DatabaseUnavailableError, StoreError
from routoo.evaluation.evaluation_run import EvaluationRun, run_figures
from routoo.evaluation.graders.grade import SCORE_KEY, grade_recorded
from routoo.evaluation.graders.judge import (
    JUDGE,
    MAX_TOKENS,
    JudgedAnswer,
    grade_verdicts,
    judge_request,
)
from routoo.evaluation.item_grading import grade_item
from routoo.evaluation.operating_point import same_cost_figures
from routoo.evaluation.run_comparison import Alert, find_alerts
from routoo.evaluation_runs.begin import write_batch
from routoo.evaluation_runs.load import load_run
from routoo.store import batches, checkpoints, schedules
from routoo.store.database import Database
from routoo.store.evaluation import alerts, eval_runs, eval_sets, grades
from routoo.store.evaluation.eval_runs import RunRecord, RunResult
from routoo.store.evaluation.grades import GradeRecord

_log = structlog.get_logger(__name__)
RUNS_COMPARED = 5
"""Number of earlier runs that a run is compared with; five average the noise of single runs."""
_FIRST_WINDOW = timedelta(days=1)
"""How far back the first run of a schedule looks at users' prompts."""
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
        told = None
        if run.recorded:
            told = await eval_runs.recorded_scores(conn, batch_id, SCORE_KEY)
        models = len(found) // len(positions)
        pairs = [(row, items[positions[row.job_no // models]]) for row in found]
        for start in range(0, len(pairs), _ANSWERS_PER_CALL):
            # Grading takes up to a millisecond an answer, so a thread does it.
            graded = await asyncio.to_thread(
                _grade_all, pairs[start : start + _ANSWERS_PER_CALL], run, batch_id, told
            )
            await grades.save(conn, batch_id, graded.grades)
            comparisons += graded.comparisons
    return comparisons


def _grade_all(
    pairs: Sequence[tuple[RunResult, Item]],
    run: RunRecord,
    batch_id: UUID,
    told: Mapping[int, str] | None,
) -> _Graded:
    """Grade results, those of replayed answers by the scores that the replay server told."""
    graded = _Graded()
    for row, item in pairs:
        if row.answer is None:
            # A sampled job that was never called measures nothing, so it gets no grade.
            if batch_id == run.batch_id or row.status == "failed":
                graded.grades.append(GradeRecord(row.job_no, 0.0, "none", "the job has no answer"))
        elif told is not None:
            given = grade_recorded(row.answer, told.get(row.job_no))
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
    requests = list(_requests(comparisons))
    batch_id = await write_batch(conn, _judge_batch(run.judge), requests, shard_size)
    await batches.skip_scoring(conn, batch_id, 1, MAX_TOKENS)
    return batch_id


def _judge_batch(judge: Mapping[str, Any]) -> batches.NewBatch:
    model, budget = CandidateModel.model_validate(judge["model"]), judge.get("budget_usd")
    budget_usd = None if budget is None else Decimal(budget)
    return batches.NewBatch(
        "judge", Pool(models=(model,)), _JUDGE_BATCH_KIND, budget_usd=budget_usd
    )


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


async def compare_run(
    conn: AsyncConnection, run: RunRecord, measured: EvaluationRun
) -> list[Alert]:
    """Find what is worse than before; save, log and return it as alerts.

    Args:
        conn: The transaction that finishes the run.
        run: The run.
        measured: Its measurements as arrays.
    """
    earlier = await eval_runs.history(conn, run, RUNS_COMPARED)
    since = earlier[0].created_at if earlier else run.created_at - _FIRST_WINDOW
    novelty = await alerts.traffic_novelty(conn, since, run.created_at)
    history = [await load_run(conn, one.id) for one in earlier]
    found = find_alerts(measured, history, novelty)
    if earlier and any(one.kind == "quality" and not one.subject for one in found):
        found += await _roll_back(conn, run, earlier[0])
    for one in found:
        await alerts.save(conn, run.id, one.kind, one.subject, one.message, one.facts)
        _log.warning(
            "run.alert", run=str(run.id), kind=one.kind, subject=one.subject, message=one.message
        )
    return found


async def _roll_back(conn: AsyncConnection, run: RunRecord, before: RunRecord) -> list[Alert]:
    """Restore the earlier checkpoint if the schedule says so and the present one may be the cause.

    Where both runs used the same checkpoint, an endpoint must have changed: nothing is rolled back.
    """
    changed = run.checkpoint_sha256 not in {None, before.checkpoint_sha256}
    if run.schedule_id is None or not changed:
        return []
    if not (await schedules.get(conn, run.schedule_id)).rollback:
        return []
    restored = await checkpoints.roll_back(
        conn, f"quality fell in run {run.id}", only_if=run.checkpoint_sha256
    )
    if restored is None:
        return []
    text = f"checkpoint {restored.weights_sha256[:12]} is in use again"
    return [Alert("rollback", "", text, {"from": run.checkpoint_sha256, "to": restored.path})]


async def finish_due(db: Database, *, shard_size: int) -> list[UUID]:
    """Advance every run whose batches have ended by one step.

    Any number of processes may do so at once: each locks the run that it works on. A step is one
    transaction, so that a crash undoes it.

    Args:
        db: The store.
        shard_size: Maximum number of jobs in a shard of a judge's batch.

    Returns:
        The ids of the runs that ended.
    """
    async with db.transaction() as conn:
        waiting = await eval_runs.due(conn)
    return [run_id for run_id in waiting if await finish_run(db, run_id, shard_size=shard_size)]


async def finish_run(db: Database, run_id: UUID, *, shard_size: int) -> bool:
    """Advance one run by one step; an error of the run itself ends it as failed.

    Returns:
        True if this call ended the run.

    Raises:
        DatabaseUnavailableError: The database can't be reached; another call takes the step.
    """
    try:
        async with db.transaction() as conn:
            run = await eval_runs.claim(conn, run_id)
            return run is not None and await _step(conn, run, shard_size)
    except DatabaseUnavailableError:
        raise
    except Exception as error:  # noqa: BLE001 - the task boundary: a run's error is its own
        _log.error(
            "run.failed", run=str(run_id), error=str(error),
            exc_info=not isinstance(error, StoreError),
        )  # fmt: skip
        async with db.transaction() as conn:
            await _fail(conn, run_id, f"{type(error).__name__}: {error}")
        return True


async def _step(conn: AsyncConnection, run: RunRecord, shard_size: int) -> bool:
    reason = await _incomplete_reason(conn, [run.batch_id, run.sample_batch_id])
    if reason is not None:
        _log.error("run.failed", run=str(run.id), error=reason)
        await _fail(conn, run.id, reason)
        return True
    comparisons = await grade_run(conn, run)
    if comparisons and run.judge_batch_id is None:
        judge_batch_id = await ask_judge(conn, run, comparisons, shard_size)
        if judge_batch_id is not None:
            await eval_runs.judge(conn, run.id, judge_batch_id)
            _log.info("run.judging", run=str(run.id), answers=len(comparisons))
            return False
    elif run.judge_batch_id is not None:
        await grade_judged(conn, run.judge_batch_id, comparisons)
    await _measure(conn, run)
    return True


async def _measure(conn: AsyncConnection, run: RunRecord) -> None:
    """Finish a graded run with its figures, and compare it with earlier ones."""
    measured = await load_run(conn, run.id)
    figures = {**run_figures(measured), "same_cost": same_cost_figures(measured)}
    await eval_runs.finish(conn, run.id, figures)
    await compare_run(conn, run, measured)
    _log.info(
        "run.finished", run=str(run.id), set=measured.facts.eval_set,
        quality=figures["quality"]["mean"], cost_usd=figures["cost_usd"],
        ungraded=figures["ungraded"],
    )  # fmt: skip


async def _fail(conn: AsyncConnection, run_id: UUID, error: str) -> None:
    """End a run as failed, and save an alert, since nobody may be watching it."""
    await eval_runs.fail(conn, run_id, error)
    await alerts.save(conn, run_id, "failed", "", f"the run failed: {error}", {})


async def _incomplete_reason(conn: AsyncConnection, batch_ids: Sequence[UUID | None]) -> str | None:
    """Return why a batch did not complete; None where all did."""
    for batch_id in batch_ids:
        if batch_id is None:
            continue
        batch = await batches.get(conn, batch_id)
        if batch.status is not BatchStatus.COMPLETED:
            return f"batch {batch_id} is {batch.status}: {batch.error or 'no reason was given'}"
    return None
