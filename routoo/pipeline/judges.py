"""The judge of a batch's answers: put down by the scorers, read by whoever plans or dispatches."""

from collections import OrderedDict
from dataclasses import dataclass, field

import structlog
from psycopg import AsyncConnection

from routoo.errors import CheckpointError
from routoo.judge.files import unpack_judge
from routoo.judge.judge import AnswerJudge
from routoo.store import checkpoints
from routoo.store.batches.records import BatchRecord

_CACHED = 2
"""Judges held in memory: the one in use, and the one of batches submitted before it."""
_log = structlog.get_logger(__name__)


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
    content = await checkpoints.judge_content(conn, batch.id)
    return None if content is None else unpack_judge(content)


@dataclass(frozen=True, slots=True)
class JudgeCache:
    """Holds the judges that a process used last, so that not every shard reads megabytes."""

    _loaded: OrderedDict[str, AnswerJudge] = field(default_factory=OrderedDict)

    async def of(self, conn: AsyncConnection, batch: BatchRecord) -> AnswerJudge | None:
        """Return the judge of a batch's answers; None where there is none that can be read."""
        sha256 = (
            await checkpoints.judge_sha256(conn, batch.id) if batch.call_options.cascade else None
        )
        if sha256 is None:
            return None
        if sha256 not in self._loaded:
            try:
                judge = await load_judge(conn, batch)
            except CheckpointError as error:
                _log.warning("judge.unreadable", batch=str(batch.id), reason=str(error))
                return None
            if judge is not None:
                self._loaded[sha256] = judge
        while len(self._loaded) > _CACHED:
            self._loaded.popitem(last=False)
        return self._loaded.get(sha256)
