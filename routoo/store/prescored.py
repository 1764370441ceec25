"""Batches that need no predictor: every job names the one model that may answer it."""

from uuid import UUID

from psycopg import AsyncConnection


async def skip_scoring(
    conn: AsyncConnection, batch_id: UUID, models: int, completion_tokens: float
) -> None:
    """Give a batch neutral predictions in place of the score stage.

    Args:
        conn: The submission's transaction, after `batches.seal`.
        batch_id: The batch; with one candidate model, or every request naming one.
        models: Candidate models in its pool.
        completion_tokens: What an answer is expected to take.
    """
    await conn.execute(
        """
        INSERT INTO predictions (batch_id, job_no, quality, quality_std, completion_tokens,
                                 novelty, truncated)
        SELECT batch_id, job_no, array_fill(1::real, ARRAY[%(models)s::int]),
               array_fill(0::real, ARRAY[%(models)s::int]),
               array_fill(%(tokens)s::real, ARRAY[%(models)s::int]), 0, false
        FROM jobs WHERE batch_id = %(id)s
        """,
        {"id": batch_id, "models": models, "tokens": completion_tokens},
    )
    await conn.execute(
        "UPDATE shards SET state = 'done' WHERE batch_id = %s AND stage = 'score'", [batch_id]
    )
    await conn.execute(
        "UPDATE shards SET state = 'ready' WHERE batch_id = %s AND stage = 'select'", [batch_id]
    )
