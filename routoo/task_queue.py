"""What each kind of broker needs to be told so that no message is lost or blocks others."""

from typing import Any
from urllib.parse import urlsplit

from kombu.entity import Exchange, Queue

from routoo.domain.job import ShardKey, Stage
from routoo.errors import ConfigError

CONTROL_QUEUE = "control"
"""Queue of the recovery tick, apart so that long stages never hold it up."""
_AMQP_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})
_REDIS_SCHEMES = frozenset({"redis", "rediss", "redis+socket"})
_EXCHANGE = Exchange("routoo", type="direct", durable=True)  # type: ignore[no-untyped-call]
_REDELIVERY_FACTOR = 2.0
"""Redis hands a message out again after this many time limits of its task."""


def task_name(stage: Stage) -> str:
    """Return the name of a stage's task; the queue has the stage's own name."""
    return f"routoo.{stage.value}"


def message(key: ShardKey) -> tuple[str, int]:
    """Return a message's whole content: which shard of which batch to look at."""
    return str(key.batch_id), key.shard_no


def is_amqp(broker_url: str) -> bool:
    """Tell RabbitMQ from Redis.

    Raises:
        ConfigError: The URL is of neither.
    """
    scheme = urlsplit(broker_url).scheme
    if scheme in _AMQP_SCHEMES:
        return True
    if scheme in _REDIS_SCHEMES:
        return False
    raise ConfigError(
        "the broker is of an unknown kind",
        value=scheme,
        where="ROUTOO_BROKER_URL",
        remedy="Give an amqp:// (RabbitMQ) or redis:// (Redis, Valkey) URL",
    )


def queue(name: str, broker_url: str) -> Queue:
    """Return a durable queue, replicated (quorum) on RabbitMQ."""
    arguments = {"x-queue-type": "quorum"} if is_amqp(broker_url) else None
    return Queue(  # type: ignore[no-untyped-call]  # kombu has few types
        name, _EXCHANGE, routing_key=name, durable=True, queue_arguments=arguments
    )


def transport_options(broker_url: str, *, task_time_limit_s: float) -> dict[str, Any]:
    """Return kombu's options for a broker.

    RabbitMQ without publisher confirms loses messages silently under a memory or disk alarm
    (celery#5410). Redis hands a message to a second worker after `visibility_timeout`; the lease
    makes that harmless, but a task that outlasts it would be started for nothing (celery#5935).
    """
    if is_amqp(broker_url):
        return {"confirm_publish": True}
    return {
        "visibility_timeout": task_time_limit_s * _REDELIVERY_FACTOR,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
        "socket_keepalive": True,
    }
