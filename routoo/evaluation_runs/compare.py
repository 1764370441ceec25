"""Compares a graded run with earlier ones, saves alerts, and rolls a checkpoint back if asked."""

from datetime import timedelta

import structlog
from psycopg import AsyncConnection

from routoo.evaluation.drift import Alert, find_drift
from routoo.evaluation.evaluation_run import EvaluationRun
from routoo.evaluation_runs.load import load_run
from routoo.store import checkpoints, schedules
from routoo.store.evaluation import alerts, eval_runs
from routoo.store.evaluation.eval_runs import RunRecord

RUNS_COMPARED = 5
"""Number of earlier runs that a run is compared with; five average the noise of single runs."""
_FIRST_WINDOW = timedelta(days=1)
"""How far back the first run of a schedule looks at users' prompts."""
_log = structlog.get_logger(__name__)


async def compare_run(
    conn: AsyncConnection, run: RunRecord, measured: EvaluationRun
) -> list[Alert]:
    """Find what is worse than before, and save it as alerts.

    Args:
        conn: The transaction that finishes the run.
        run: The run.
        measured: Its measurements as arrays.

    Returns:
        The alerts; they are also saved and logged.
    """
    earlier = await eval_runs.history(conn, run, RUNS_COMPARED)
    since = earlier[0].created_at if earlier else run.created_at - _FIRST_WINDOW
    novelty = await alerts.traffic_novelty(conn, since, run.created_at)
    history = [await load_run(conn, one.id) for one in earlier]
    found = find_drift(measured, history, novelty)
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
