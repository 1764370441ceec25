"""Messages: hints that a shard waits. Losing them all loses nothing."""

from collections.abc import Sequence

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from routoo.domain.job import ShardKey, Stage
from routoo.task_queue import message, task_name

_log = structlog.get_logger(__name__)


def announce(app: Celery, keys: Sequence[ShardKey]) -> None:
    """Publish one message a shard.

    A broker that is away is no error: the recovery tick announces the shards later.
    """
    if not keys:
        return
    try:
        with app.producer_or_acquire() as producer:
            for key in keys:
                app.send_task(task_name(key.stage), args=message(key), producer=producer)
    except OperationalError as error:
        _log.warning("announce.failed", shards=len(keys), reason=type(error).__name__)


def waiting(app: Celery, stage: Stage) -> int:
    """Return how many messages wait in a stage's queue, those being worked on not counted."""
    with app.connection_for_write() as connection, connection.channel() as channel:
        # Not passive: Redis knows no empty queue, and RabbitMQ would close the channel.
        declared = app.amqp.queues[stage.value].bind(channel).queue_declare()
        return int(declared.message_count)
