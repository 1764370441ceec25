"""Finishes runs whose batches have ended: grades, figures, comparison with earlier runs."""

from collections.abc import Sequence
from uuid import UUID

import structlog
from psycopg import AsyncConnection

from routoo.domain.job import BatchStatus
from routoo.errors import DatabaseUnavailableError, StoreError
from routoo.evaluation.evaluation_run import run_figures
from routoo.evaluation_runs.compare import compare_run
from routoo.evaluation_runs.grade import grade_run
from routoo.evaluation_runs.judging import ask_judge, grade_judged
from routoo.evaluation_runs.load import load_run
from routoo.store import batches
from routoo.store.database import Database
from routoo.store.evaluation import alerts, eval_runs
from routoo.store.evaluation.eval_runs import RunRecord

_log = structlog.get_logger(__name__)


async def finish_due(db: Database, *, shard_size: int) -> list[UUID]:
    """Take every run whose batches have ended one step on.

    Any number of processes may do so at once: a run is locked by the one that works on it, and a
    step is one transaction, so that a crash leaves it undone.

    Args:
        db: The store.
        shard_size: Most jobs in a shard of a judge's batch.

    Returns:
        Runs that are over now.
    """
    async with db.transaction() as conn:
        waiting = await eval_runs.due(conn)
    return [run_id for run_id in waiting if await finish_run(db, run_id, shard_size=shard_size)]


async def finish_run(db: Database, run_id: UUID, *, shard_size: int) -> bool:
    """Take one run a step on; an error of its own ends it as failed.

    Returns:
        Whether it is over now, by this call.

    Raises:
        DatabaseUnavailableError: The database is away; the step is taken later.
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
    broken = await _broken(conn, [run.batch_id, run.sample_batch_id])
    if broken is not None:
        _log.error("run.failed", run=str(run.id), error=broken)
        await _fail(conn, run.id, broken)
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
    """End a run that came to nothing, and warn: nobody may be watching."""
    await eval_runs.fail(conn, run_id, error)
    await alerts.save(conn, run_id, "failed", "", f"the run failed: {error}", {})


async def _broken(conn: AsyncConnection, batch_ids: Sequence[UUID | None]) -> str | None:
    """Return why a batch came to nothing, None where all are complete."""
    for batch_id in batch_ids:
        if batch_id is None:
            continue
        batch = await batches.get(conn, batch_id)
        if batch.status is not BatchStatus.COMPLETED:
            return f"batch {batch_id} is {batch.status}: {batch.error or 'no reason was given'}"
    return None
