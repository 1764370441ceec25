"""Finishes runs whose batches have ended: grades them and compares them with earlier runs."""

from collections.abc import Sequence
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus
from routoo.errors import DatabaseUnavailableError, StoreError
from routoo.evaluation.evaluation_run import run_figures
from routoo.evaluation_runs.compare import compare_run
from routoo.evaluation_runs.grade import ask_judge, grade_judged, grade_run
from routoo.evaluation_runs.load import load_run
from routoo.store import batches
from routoo.store.database import Database
from routoo.store.evaluation import alerts, eval_runs
from routoo.store.evaluation.eval_runs import RunRecord

_log = structlog.get_logger(__name__)


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
    measured = await load_run(conn, run.id)
    figures = run_figures(measured)
    await eval_runs.finish(conn, run.id, figures)
    await compare_run(conn, run, measured)
    _log.info(
        "run.finished", run=str(run.id), set=measured.facts.eval_set,
        quality=figures["quality"]["mean"], cost_usd=figures["cost_usd"],
        ungraded=figures["ungraded"],
    )  # fmt: skip
    return True


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
