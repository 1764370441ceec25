"""Tells the workers that a batch waits: hints only, Postgres is the truth.

The messages follow Celery's message protocol 2 (docs.celeryq.dev, "Message Protocol") and are
published with kombu alone: the task app with its queues belongs to the workers. The anonymous
exchange takes them straight to the queue named by the routing key, on RabbitMQ and on Redis, so
nothing is declared here and no declaration can clash with the workers'.
"""

from typing import Any
from uuid import UUID, uuid4

from kombu.connection import Connection
from kombu.exceptions import KombuError

from routoo.domain.job import Stage
from routoo.errors import BrokerUnavailableError

_TIMEOUT_S = 3.0
_PERSISTENT = 2


def wake(broker_url: str, stage: Stage, batch_id: UUID, shard_count: int) -> None:
    """Publish one message for each shard that a stage of a batch has ready.

    Args:
        broker_url: RabbitMQ or Redis, as kombu reads it.
        stage: The stage: `score` of a new batch, `dispatch` of a submitted plan.
        batch_id: The batch.
        shard_count: Its shards, from the first one on.

    Raises:
        BrokerUnavailableError: The broker can't be reached; the workers' recovery tick will find
            the batch without it.
    """
    options = {"socket_connect_timeout": _TIMEOUT_S, "socket_timeout": _TIMEOUT_S}
    if broker_url.startswith(("amqp", "pyamqp")):
        options = {"confirm_publish": True}
    connection = Connection(  # type: ignore[no-untyped-call]  # kombu has no types
        broker_url, connect_timeout=_TIMEOUT_S, heartbeat=0, transport_options=options
    )
    errors = (KombuError, OSError, *connection.connection_errors, *connection.channel_errors)
    try:
        with connection:
            connection.ensure_connection(  # type: ignore[no-untyped-call]  # the same
                max_retries=1, timeout=_TIMEOUT_S
            )
            _publish(connection, stage, str(batch_id), shard_count)
    except errors as error:
        raise BrokerUnavailableError(
            "the broker can't be reached",
            value=type(error).__name__,
            remedy="Nothing is lost: workers find the batch by their recovery tick",
        ) from error


def _publish(connection: Connection, stage: Stage, batch_id: str, shard_count: int) -> None:
    with connection.Producer(serializer="json") as producer:  # type: ignore[no-untyped-call]  # the same
        for shard_no in range(shard_count):
            body, headers = _message(stage, batch_id, shard_no)
            producer.publish(
                body,
                exchange="",
                routing_key=stage.value,
                headers=headers,
                correlation_id=headers["id"],
                delivery_mode=_PERSISTENT,
                retry=False,
            )


def _message(stage: Stage, batch_id: str, shard_no: int) -> tuple[list[Any], dict[str, Any]]:
    """Return the body and the headers of one task message."""
    task_id = str(uuid4())
    headers: dict[str, Any] = dict.fromkeys(
        ("shadow", "eta", "expires", "group", "group_index", "parent_id")
    )
    headers |= {
        "lang": "py",
        "task": f"routoo.{stage.value}",
        "id": task_id,
        "root_id": task_id,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": f"['{batch_id}', {shard_no}]",
        "kwargsrepr": "{}",
        "origin": "routoo-producer",
        "ignore_result": True,
    }
    embed = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    return [[batch_id, shard_no], {}, embed], headers
