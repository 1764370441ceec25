"""The jobs of a shard at work: each a task, given another model as long as no call was made."""

import asyncio
from collections.abc import Sequence

from routoo.domain.job import PendingJob
from routoo.domain.pool import CandidateModel
from routoo.pipeline.dispatch.answer import Answerer


class Roster:
    """Runs the jobs of one shard and moves those that still wait for their turn.

    Args:
        answerer: Answers a job, and knows whom it has begun to call for.
        group: Owns the tasks: an error of one ends them all, and it ends with the last.
    """

    def __init__(self, answerer: Answerer, group: asyncio.TaskGroup) -> None:
        self._answerer, self._group = answerer, group
        self._tasks: dict[int, asyncio.Task[bool]] = {}
        self._models: dict[int, str] = {}

    def assign(
        self, pending: Sequence[PendingJob], ranked: Sequence[Sequence[CandidateModel]]
    ) -> int:
        """Start jobs, and move those that wait for another model's turn.

        A job whose call was begun stays with its model: so no job is ever called for twice.

        Args:
            pending: Jobs without a result.
            ranked: For each, the candidates in turn.

        Returns:
            How many jobs were moved.
        """
        moved = 0
        if self._answerer.closing.is_set():
            return moved
        for job, candidates in zip(pending, ranked, strict=True):
            number, task = job.job.job_no, self._tasks.get(job.job.job_no)
            if task is not None:
                settled = task.done() or number in self._answerer.called
                if settled or self._models[number] == job.model:
                    continue
                task.cancel()  # it waits in a queue and holds nothing
                moved += 1
            self._models[number] = job.model
            self._tasks[number] = self._group.create_task(self._answerer.answer(job, candidates))
        return moved

    @property
    def all_answered(self) -> bool:
        """Whether every job has its result; once the group has ended."""
        return all(not task.cancelled() and task.result() for task in self._tasks.values())

    def cancel(self) -> None:
        """Cancel what is still at work."""
        for task in self._tasks.values():
            task.cancel()
