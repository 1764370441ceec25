"""Names the queues between the programs, their messages, and the settings of both ends.

The producer publishes to these queues and the workers consume them, each with a Celery app of its
own. What the two apps must agree on is here, as plain data: the library imports no task queue.
"""

from typing import Any
from urllib.parse import urlsplit

from routoo.domain.job import ShardKey, Stage
from routoo.errors import ConfigError

CONTROL_QUEUE = "control"
"""Queue of the periodic tasks, apart so that long stages never delay them."""
_EXCHANGE = "routoo"
_AMQP_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})
_REDIS_SCHEMES = frozenset({"redis", "rediss", "redis+socket"})


def task_name(stage: Stage) -> str:
    """Return the name of a stage's task; the stage's queue has the stage's own name."""
    return f"routoo.{stage.value}"


def task_arguments(key: ShardKey) -> tuple[str, int]:
    """Return a message's whole content: which shard of which batch is ready."""
    return str(key.batch_id), key.shard_no


def is_amqp(broker_url: str) -> bool:
    """Return whether a broker is RabbitMQ; if not, it is Redis or Valkey.

    Raises:
        ConfigError: The URL is of neither kind.
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


_REFUSALS = {"AccessRefused", "AuthenticationError", "AuthorizationError", "NotAllowed"}
"""Names of the errors by which the drivers tell a broker's refusal."""


def check_refusal(error: BaseException) -> None:
    """Raise where a broker refused its URL, so that trying again is in vain.

    Args:
        error: What connecting raised, of whatever driver.

    Raises:
        ConfigError: The broker refused the user, the password or the virtual host.
    """
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in _REFUSALS:
            raise ConfigError(
                f"the broker refuses the connection: {str(cause).strip(' .') or 'access denied'}",
                where="ROUTOO_BROKER_URL",
                remedy="Correct the URL's user, password or virtual host",
            ) from error
        cause = cause.__cause__ or cause.__context__


def celery_settings(broker_url: str) -> dict[str, Any]:
    """Return the Celery settings of every app, whether it publishes or consumes.

    Messages are JSON, results are not kept, and a queue is declared with the same arguments
    everywhere: RabbitMQ refuses a second declaration that differs.

    Raises:
        ConfigError: The broker is of an unknown kind.
    """
    names = [*(stage.value for stage in Stage), CONTROL_QUEUE]
    return {
        "task_serializer": "json",
        "accept_content": ["json"],
        "result_backend": None,
        "task_ignore_result": True,
        "task_queues": {name: _queue(name, broker_url) for name in names},
        "task_create_missing_queues": False,
        "task_default_queue": CONTROL_QUEUE,
        "task_routes": {task_name(stage): {"queue": stage.value} for stage in Stage},
        "broker_transport_options": _publish_options(broker_url),
    }


def _queue(name: str, broker_url: str) -> dict[str, Any]:
    """Return a durable queue as `kombu.Queue.from_dict` takes it; RabbitMQ replicates it."""
    arguments = {"x-queue-type": "quorum"} if is_amqp(broker_url) else None
    return {
        "exchange": _EXCHANGE,
        "exchange_type": "direct",
        "routing_key": name,
        "durable": True,
        "queue_arguments": arguments,
    }


def _publish_options(broker_url: str) -> dict[str, Any]:
    # Without publisher confirms RabbitMQ loses messages silently while a memory or disk alarm
    # blocks publishers (celery#5410).
    return {"confirm_publish": True} if is_amqp(broker_url) else {}
