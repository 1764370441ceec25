"""Plans made from batches that are scored already: other aims and budgets without scoring again."""

from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from routoo.domain.batch_options import Objective
from routoo.domain.job import BatchStatus
from routoo.errors import InputError
from routoo.store import batches
from routoo.store.batches import BatchRecord

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


async def redraft(
    conn: AsyncConnection,
    source: BatchRecord,
    budget_usd: Decimal | None,
    objective: Objective,
    shard_size: int,
) -> UUID:
    """Make a draft with another batch's jobs, prices and predictions, ready to be selected.

    Args:
        conn: A transaction.
        source: A plan, or any batch that is scored as a whole; it stays as it is.
        budget_usd: Budget of the draft in USD, None for none.
        objective: What the draft aims at; how sure its quality floors are stays the source's.
        shard_size: Most jobs in a shard.

    Returns:
        Id of the draft.

    Raises:
        InputError: The source is not scored yet.
    """
    batch_id = uuid4()
    aim = replace(objective, floor_confidence=source.objective.floor_confidence)
    changes = {"id": str(batch_id), **_fresh(budget_usd, aim)}
    await conn.execute(_COPY_BATCH, {"changes": Jsonb(changes), "source": source.id})
    key = {"id": batch_id, "source": source.id}
    await conn.execute(_COPY_FACTS.format(table="jobs"), key)
    cursor = await conn.execute(_COPY_FACTS.format(table="predictions"), key)
    if cursor.rowcount != source.job_count:
        raise InputError(
            f"only {cursor.rowcount:,} of {source.job_count:,} jobs are scored",
            value=str(source.id),
            remedy="Wait until the plan is there, then derive another from it",
        )
    # The margins of quality floors are the predictor's, as the predictions are.
    await conn.execute(_COPY_FACTS.format(table="floors"), key)
    await batches.seal(conn, batch_id, source.job_count, shard_size)
    await conn.execute(
        "UPDATE shards SET state = CASE stage WHEN 'score' THEN 'done' ELSE 'ready' END"
        " WHERE batch_id = %s AND stage IN ('score', 'select')",
        [batch_id],
    )
    return batch_id


def _fresh(budget_usd: Decimal | None, objective: Objective) -> dict[str, Any]:
    """Return the columns in which a draft differs from the batch it is made from."""
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
