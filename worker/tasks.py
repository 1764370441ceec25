"""The Celery tasks: a message in, one call of the runtime, an acknowledgement out."""

from uuid import UUID

from celery import Celery
from celery.exceptions import Reject

from routoo.domain.job import ShardKey, Stage
from routoo.pipeline.select.drift import ReplanOptions
from routoo.pipeline.shard_work import ShardWorker
from routoo.store.database import Database
from routoo.task_queue import task_name
from worker.loop import LoopThread
from worker.queue import RECOVER_TASK, REPLAN_TASK, publish
from worker.recovery import recover
from worker.replanning import replan


def register_stages(app: Celery, loop: LoopThread, worker: ShardWorker) -> None:
    """Register the task of every stage that the worker does."""
    for stage in worker.stages:
        _register_stage(app, loop, worker, stage)


def _register_stage(app: Celery, loop: LoopThread, worker: ShardWorker, stage: Stage) -> None:
    def work(batch_id: str, shard_no: int) -> None:
        outcome = loop.run(worker.handle(ShardKey(UUID(batch_id), stage, shard_no)))
        publish(app, outcome.publish)
        if outcome.requeue:
            raise Reject("the worker stops", requeue=True)

    app.task(work, name=task_name(stage))


def register_recovery(app: Celery, loop: LoopThread, db: Database, *, max_attempts: int) -> None:
    """Register the recovery tick."""

    def tick() -> None:
        recover(app, loop, db, max_attempts=max_attempts)

    app.task(tick, name=RECOVER_TASK)


def register_replanning(
    app: Celery, loop: LoopThread, db: Database, options: ReplanOptions
) -> None:
    """Register the replanning tick."""

    def tick() -> None:
        replan(app, loop, db, options)

    app.task(tick, name=REPLAN_TASK)
