"""The judge of a batch's answers: put down by the scorers, read by whoever plans or dispatches."""

from psycopg import AsyncConnection

from routoo.judge.files import unpack_judge
from routoo.judge.judge import AnswerJudge
from routoo.store import judges
from routoo.store.batches.records import BatchRecord


async def load_judge(conn: AsyncConnection, batch: BatchRecord) -> AnswerJudge | None:
    """Return the judge of a batch's answers.

    Args:
        conn: A connection.
        batch: A scored batch.

    Returns:
        None where the batch wants no answers judged, or its checkpoint can judge none.

    Raises:
        CheckpointError: The stored judge is damaged.
    """
    if not batch.call_options.cascade:
        return None
    content = await judges.content_of(conn, batch.id)
    return None if content is None else unpack_judge(content)
