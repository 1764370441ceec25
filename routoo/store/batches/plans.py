"""Plans: batches that are scored and selected, and make no call until they are submitted.

A plan may be derived from a batch that is scored already, with another aim or budget.
"""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import BatchStatus
from routoo.errors import InfeasibleError, InputError
from routoo.store import batches, budget, webhooks
from routoo.store.batches.records import BatchRecord

_FACTS = ("jobs", "predictions", "assignments", "followers", "results", "batch_counts")
"""Tables of a plan's rows that no foreign key deletes with the batch."""


async def finish_planning(conn: AsyncConnection, batch_id: UUID) -> None:
    """Let a plan whose selection is done wait for its owner.

    `shards.finish` calls this; its dispatch shards stay blocked.
    """
    await conn.execute(
        "UPDATE batches SET status = 'planned' WHERE id = %s AND status = 'planning'", [batch_id]
    )


async def submit_plan(conn: AsyncConnection, batch_id: UUID) -> bool:
    """Hand out a plan's dispatch shards: from here on exactly that plan runs.

    Args:
        conn: A transaction.
        batch_id: The planned batch.

    Returns:
        Whether this call did it; false where the plan was submitted before.

    Raises:
        NotFoundError: There is no such batch.
        InputError: The plan is not ready, its deadline is over, or the batch is.
        InfeasibleError: What the plan aims at can't be met.
    """
    await batches.lock(conn, batch_id)
    batch = await batches.get(conn, batch_id)
    if batch.submitted_at is not None:
        return False
    if batch.status is not BatchStatus.PLANNED:
        raise _no_plan(batch)
    _check_runnable(batch, datetime.now(UTC))
    await _hand_out(conn, batch_id)
    return True


async def _hand_out(conn: AsyncConnection, batch_id: UUID) -> None:
    """Put a planned batch in progress, and make its dispatch shards ready."""
    await conn.execute(
        "UPDATE batches SET status = 'in_progress', submitted_at = clock_timestamp() WHERE id = %s",
        [batch_id],
    )
    await conn.execute(
        "UPDATE shards SET state = 'ready'"
        " WHERE batch_id = %s AND stage = 'dispatch' AND state = 'blocked'",
        [batch_id],
    )


_OLDEST_EXPIRED = b"""
    SELECT id FROM batches
    WHERE status = 'planned' AND created_at < clock_timestamp() - make_interval(secs => %s)
    ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
"""


async def delete_expired(conn: AsyncConnection, retention_s: float) -> UUID | None:
    """Delete one plan that nobody submitted in time, with its jobs; nothing was spent on it.

    Args:
        conn: A transaction of its own: a big plan takes seconds.
        retention_s: Age in seconds at which a plan goes.

    Returns:
        Its id; None where none is so old, or another transaction is busy with it.
    """
    cursor = await conn.execute(_OLDEST_EXPIRED, [retention_s])
    row = await cursor.fetchone()
    if row is None:
        return None
    batch_id: UUID = row[0]
    for table in _FACTS:
        await conn.execute(f"DELETE FROM {table} WHERE batch_id = %s".encode(), [batch_id])
    await conn.execute("DELETE FROM batches WHERE id = %s", [batch_id])
    return batch_id


def _no_plan(batch: BatchRecord) -> InputError:
    if batch.status is BatchStatus.PLANNING:
        return InputError(
            "the plan is not ready: it is being scored and selected",
            value=str(batch.id),
            remedy="Wait for it with `routoo-producer watch`",
        )
    return InputError(
        f"the batch is {batch.status} and was no plan that waits",
        value=str(batch.id),
        remedy="Make a plan with `routoo-producer plan FILE`",
    )


def _check_runnable(batch: BatchRecord, now: datetime) -> None:
    plan = batch.plan or {}
    if plan.get("status") == "infeasible" and not plan["served"]:
        raise InfeasibleError(
            "the plan serves nobody: its limits can't all hold",
            value=str(batch.id),
            remedy=plan["advice"].rstrip("."),
        )
    if batch.deadline is not None and batch.deadline <= now:
        raise InputError(
            "the plan's deadline is over",
            value=str(batch.deadline),
            remedy="Plan again with a later one",
        )


# Whatever columns a table has or gets: those that are not named here are copied as they are.
_COPY_BATCH = """
    INSERT INTO batches SELECT copy.* FROM batches b, jsonb_populate_record(b, %(changes)s) AS copy
    WHERE b.id = %(source)s
"""
_COPY_FACTS = """
    INSERT INTO {table} SELECT copy.*
    FROM {table} f, jsonb_populate_record(f, jsonb_build_object('batch_id', %(id)s::text)) AS copy
    WHERE f.batch_id = %(source)s
"""


async def derive_plan(
    conn: AsyncConnection,
    source: BatchRecord,
    budget_usd: Decimal | None,
    objective: Objective,
    shard_size: int,
    *,
    call_options: CallOptions | None = None,
) -> UUID:
    """Make a plan with another batch's jobs, prices and predictions, ready to be selected.

    Args:
        conn: A transaction.
        source: A plan, or any batch that is scored as a whole; it stays as it is.
        budget_usd: Budget of the new plan in USD, None for none.
        objective: What it aims at; how sure its quality floors are stays the source's.
        shard_size: Most jobs in a shard.
        call_options: How its calls are made; None = as the source's.

    Returns:
        Id of the new plan.

    Raises:
        InputError: The source is not scored yet.
    """
    batch_id = uuid4()
    aim = replace(objective, floor_confidence=source.objective.floor_confidence)
    changes = {"id": str(batch_id), **_fresh(budget_usd, aim)}
    if call_options is not None:
        changes["call_options"] = call_options.as_json()
    await conn.execute(_COPY_BATCH, {"changes": Jsonb(changes), "source": source.id})
    await _copy_facts(conn, source, batch_id)
    await webhooks.copy(conn, source.id, batch_id)
    key_id = await budget.key_of(conn, source.id)
    await batches.seal(conn, batch_id, source.job_count, shard_size, key_id=key_id)
    await conn.execute(
        "UPDATE shards SET state = CASE stage WHEN 'score' THEN 'done' ELSE 'ready' END"
        " WHERE batch_id = %s AND stage IN ('score', 'select')",
        [batch_id],
    )
    return batch_id


async def _copy_facts(conn: AsyncConnection, source: BatchRecord, batch_id: UUID) -> None:
    """Give a batch the jobs of another one, and what its predictor said of them."""
    key = {"id": batch_id, "source": source.id}
    await conn.execute(_COPY_FACTS.format(table="jobs"), key)
    cursor = await conn.execute(_COPY_FACTS.format(table="predictions"), key)
    if cursor.rowcount != source.job_count:
        raise InputError(
            f"only {cursor.rowcount:,} of {source.job_count:,} jobs are scored",
            value=str(source.id),
            remedy="Wait until the plan is there, then derive another from it",
        )
    # Margins of quality floors and the judge are the predictor's, as the predictions are.
    for table in ("request_facts", "floors", "prompt_factors", "batch_judges"):
        await conn.execute(_COPY_FACTS.format(table=table), key)


def _fresh(budget_usd: Decimal | None, objective: Objective) -> dict[str, Any]:
    """Return the columns in which a derived plan differs from its source."""
    return {
        "status": BatchStatus.PLANNING,
        "draft": True,
        "idempotency_key": None,
        "budget_usd": None if budget_usd is None else str(budget_usd),
        "objective": None if objective == Objective() else objective.as_json(),
        "created_at": "now",
        "plan": None,
        "error": None,
        "completed_at": None,
        "submitted_at": None,
    }
