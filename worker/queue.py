"""The Celery app, made at a program's entry point from its settings."""

from celery import Celery

from routoo.domain.job import Stage
from routoo.settings import Settings
from routoo.task_queue import CONTROL_QUEUE, queue, task_name, transport_options

RECOVER_TASK = "routoo.recover"
REPLAN_TASK = "routoo.replan"
_BEAT_SCHEDULER = "celery.beat:Scheduler"
"""In memory: the default scheduler keeps its state with shelve, that is pickle, in the cwd."""


def create_app(settings: Settings, broker_url: str) -> Celery:
    """Return an app that publishes and consumes shard messages.

    Args:
        settings: Time limits and the recovery interval.
        broker_url: RabbitMQ or Redis.

    Raises:
        ConfigError: The broker is of an unknown kind.
    """
    app = Celery("routoo", broker=broker_url, set_as_current=False)
    names = [*(stage.value for stage in Stage), CONTROL_QUEUE]
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_backend=None,
        task_ignore_result=True,
        # A message is done when its shard is; a crash before that brings it back.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_queues=[queue(name, broker_url) for name in names],
        task_create_missing_queues=False,
        task_default_queue=CONTROL_QUEUE,
        task_routes={task_name(stage): {"queue": stage.value} for stage in Stage},
        broker_transport_options=transport_options(
            broker_url, task_time_limit_s=settings.task_time_limit_s
        ),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # The lease tells whether a shard is still ours; the broker's connection does not.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        beat_scheduler=_BEAT_SCHEDULER,
        beat_schedule={
            "recover": _every(settings.recovery_interval_s, RECOVER_TASK),
            "replan": _every(settings.replan_interval_s, REPLAN_TASK),
        },
    )
    return app


def _every(interval_s: float, task: str) -> dict[str, object]:
    # A tick that waited a whole interval is overtaken by the next one.
    options = {"queue": CONTROL_QUEUE, "expires": interval_s}
    return {"task": task, "schedule": interval_s, "options": options}
