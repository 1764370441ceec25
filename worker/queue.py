"""Makes the workers' Celery app and consumer, publishes shards, and counts messages that wait.

A message is a hint that a shard is ready. PostgreSQL knows which shards are, so losing every
message loses no work: the recovery tick publishes them again.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import structlog
from celery import Celery
from celery.worker.consumer import Consumer
from kombu.exceptions import OperationalError

from routoo.domain.job import ShardKey, Stage
from routoo.errors import BrokerUnavailableError
from routoo.settings import Settings
from routoo.task_queue import (
    CONTROL_QUEUE,
    celery_settings,
    check_refusal,
    is_amqp,
    task_arguments,
    task_name,
)

RECOVER_TASK = "routoo.recover"
REPLAN_TASK = "routoo.replan"
_BEAT_SCHEDULER = "celery.beat:Scheduler"
"""In memory: the default scheduler keeps its state with shelve, that is pickle, in the cwd."""
_REDELIVERY_FACTOR = 2.0
"""Redis delivers a message again after this many time limits of its task."""
_CONNECT_TIMEOUT_S = 5.0
_log = structlog.get_logger(__name__)


def create_app(settings: Settings, broker_url: str) -> Celery:
    """Return an app that publishes and consumes messages about shards.

    Args:
        settings: Time limits and the intervals of the periodic tasks.
        broker_url: RabbitMQ, Redis or Valkey.

    Raises:
        ConfigError: The broker is of an unknown kind.
    """
    app = Celery("routoo", broker=broker_url, set_as_current=False)
    app.conf.update(celery_settings(broker_url))
    app.conf.update(
        result_serializer="json",
        # A message is done when its shard is; a crash before that brings it back.
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A Redis that refuses to write (a failover, a full disk) and a RabbitMQ that closes a
        # channel get over it; without this the worker's process ends with status 1.
        broker_channel_error_retry=True,
        # Whether a worker still owns a shard depends on its lease, not on the broker's connection.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        beat_scheduler=_BEAT_SCHEDULER,
        beat_schedule={
            "recover": _every(settings.recovery_interval_s, RECOVER_TASK),
            "replan": _every(settings.replan_interval_s, REPLAN_TASK),
        },
    )
    if not is_amqp(broker_url):
        app.conf.broker_transport_options = _redis_options(settings.task_time_limit_s)
    return app


def check_broker(url: str) -> None:
    """Connect to a broker; once more after two seconds, since it may start with its workers.

    Raises:
        ConfigError: It refuses the URL.
        BrokerUnavailableError: It can't be reached.
    """
    app = Celery("routoo", broker=url, set_as_current=False)
    connection: Any = app.connection_for_write(connect_timeout=_CONNECT_TIMEOUT_S)
    try:
        connection.connect()
        connection.close()
    except (*connection.connection_errors, OSError, OperationalError) as error:
        connection.collect()
        check_refusal(error)
        raise BrokerUnavailableError(
            "the broker can't be reached",
            value=type(error).__name__,
            where="ROUTOO_BROKER_URL",
            remedy="Check that the server runs and that the URL names it",
        ) from error


def _every(interval_s: float, task: str) -> dict[str, object]:
    # A message that waited a whole interval is replaced by the next one.
    options = {"queue": CONTROL_QUEUE, "expires": interval_s}
    return {"task": task, "schedule": interval_s, "options": options}


def _redis_options(task_time_limit_s: float) -> dict[str, Any]:
    """Return kombu's options for consuming from Redis.

    Redis delivers a message to a second worker after `visibility_timeout`; the lease makes that
    harmless, but a task that outlasts it would be started for nothing (celery#5935).
    """
    return {
        "visibility_timeout": task_time_limit_s * _REDELIVERY_FACTOR,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
        "socket_keepalive": True,
    }


def publish(app: Celery, keys: Sequence[ShardKey]) -> None:
    """Publish one message a shard.

    A broker that is away is no error: the recovery tick publishes the shards later.
    """
    if not keys:
        return
    try:
        with app.producer_or_acquire() as producer:
            for key in keys:
                app.send_task(task_name(key.stage), args=task_arguments(key), producer=producer)
    except OperationalError as error:
        _log.warning("publish.failed", shards=len(keys), reason=type(error).__name__)


def count_waiting(app: Celery, stage: Stage) -> int:
    """Return how many messages wait in a stage's queue, without those being worked on."""
    with app.connection_for_write() as connection, connection.channel() as channel:
        # Not passive: Redis knows no empty queue, and RabbitMQ would close the channel.
        declared = app.amqp.queues[stage.value].bind(channel).queue_declare()
        return int(declared.message_count)


class ShardConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Consumes messages without the queues for delays that Celery declares at every connection.

    Shards wait in the database; none of our messages has a delay.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """The steps of a consumer."""

        default_steps: ClassVar = [
            step for step in Consumer.Blueprint.default_steps if "delayed_delivery" not in step
        ]

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Drop a connection that broke, and go on to the next one.

        A message is acknowledged when its task ends, and kombu gives back those that are not; over
        a connection to Redis that was dropped, both would end the process. No shard needs them.
        """
        channel = self.task_consumer and self.task_consumer.channel
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            _log.info("worker.messages_not_returned", reason=str(error))
        if channel is not None:
            channel.basic_ack = channel.basic_reject = _leave_unacknowledged


def _leave_unacknowledged(*_: object, **__: object) -> None:
    """Do nothing: the broker delivers the message again."""
