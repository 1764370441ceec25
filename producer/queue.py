"""Publishes messages to the workers: hints that shards are ready.

PostgreSQL knows which shards are ready, so a message that is lost loses no work: the workers'
recovery tick publishes it again.
"""

import socket
import time
from typing import TYPE_CHECKING
from uuid import UUID

from routoo.console.output import note
from routoo.domain.job import ShardKey, Stage
from routoo.embedded import stack
from routoo.embedded.valkey import EmbeddedValkey
from routoo.errors import BrokerUnavailableError, ConfigError
from routoo.settings import Settings
from routoo.task_queue import celery_settings, check_refusal, is_amqp, task_arguments, task_name

if TYPE_CHECKING:
    from celery import Celery
    from kombu.connection import Connection

_TIMEOUT_S = 3.0
"""How long the broker may take to connect, and to take one message; messages are tried again for
as long."""
_RETRY_S = 0.2
"""Time between two tries to connect; kombu by itself waits for two seconds."""
_NO_WORKERS = "no workers run on this home: `routoo-worker up` will run the batch"
_UNKNOWN_HOST = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


def check_broker(settings: Settings) -> None:
    """Refuse a broker that will never take a message, before anything is committed.

    A broker that is only away is fine: workers find a batch by their recovery tick.

    Raises:
        ConfigError: It refuses the user, the password or the virtual host of the URL, or the URL's
            host is unknown.
    """
    if settings.embedded_broker:
        return
    from kombu.exceptions import KombuError

    app = _app(stack.broker_url(settings))
    connection = app.connection_for_write(connect_timeout=_TIMEOUT_S, heartbeat=0)
    try:
        connection.ensure_connection(
            max_retries=1, interval_start=_RETRY_S, reraise_as_library_errors=False
        )
        connection.close()
    except (KombuError, OSError, *connection.connection_errors) as error:
        connection.collect()
        check_refusal(error)
        _check_host(error)


def _check_host(error: BaseException) -> None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror) and cause.errno in _UNKNOWN_HOST:
            raise ConfigError(
                "the broker's host is unknown",
                where="ROUTOO_BROKER_URL",
                remedy="Correct the URL's host",
            ) from error
        cause = cause.__cause__ or cause.__context__


def publish(broker_url: str, stage: Stage, batch_id: UUID, shard_count: int) -> None:
    """Publish one message for each shard that a stage of a batch has ready.

    Args:
        broker_url: RabbitMQ, Redis or Valkey, as Celery reads it.
        stage: The stage: `score` of a new batch, `dispatch` of a submitted plan.
        batch_id: The batch.
        shard_count: Its shards, from the first one on.

    Raises:
        BrokerUnavailableError: The broker can't be reached or takes no messages; the workers'
            recovery tick will find the batch without them.
        ConfigError: The broker is of an unknown kind.
    """
    app, until_s = _app(broker_url), time.monotonic() + _TIMEOUT_S
    keys = [ShardKey(batch_id, stage, number) for number in range(shard_count)]
    while (error := _try_to_send(app, keys)) is not None:
        if time.monotonic() >= until_s:
            raise BrokerUnavailableError(
                "the broker can't be reached",
                value=type(error).__name__,
                remedy="Don't submit again: the batch is in the database, and workers that reach "
                "the broker find it by their recovery tick, every few seconds",
            ) from error
        time.sleep(_RETRY_S)  # it may be starting again; a repeated message does no harm


def publish_or_note(settings: Settings, stage: Stage, batch_id: UUID, shard_count: int) -> bool:
    """Publish to the settings' broker; write a note to standard error where it can't be reached.

    Returns:
        Whether the broker has the messages. The batch is safe in the database anyway.
    """
    text = try_to_publish(settings, stage, batch_id, shard_count)
    if text is not None:
        note(text)
    return text is None


def try_to_publish(
    settings: Settings, stage: Stage, batch_id: UUID, shard_count: int
) -> str | None:
    """Publish to the settings' broker; return a note for people where it can't be reached."""
    if settings.embedded_broker and not EmbeddedValkey(settings.home).is_running():
        return _NO_WORKERS
    try:
        publish(stack.broker_url(settings), stage, batch_id, shard_count)
    except BrokerUnavailableError as error:
        return f"note: {error}"
    return None


def _app(broker_url: str) -> "Celery":
    from celery import Celery

    app = Celery("routoo", broker=broker_url, set_as_current=False)
    app.conf.update(celery_settings(broker_url))
    app.conf.broker_transport_options |= _timeouts(broker_url)
    return app


def _timeouts(broker_url: str) -> dict[str, float]:
    names = (
        ("read_timeout", "write_timeout")
        if is_amqp(broker_url)
        else ("socket_connect_timeout", "socket_timeout")
    )
    return dict.fromkeys(names, _TIMEOUT_S)


def _try_to_send(app: "Celery", keys: list[ShardKey]) -> BaseException | None:
    """Send a message for each shard; return why the broker doesn't take them."""
    # Here and not above: they take 0.2 s of CPU, and most commands publish nothing.
    from kombu.exceptions import KombuError

    connection = app.connection_for_write(connect_timeout=_TIMEOUT_S, heartbeat=0)
    errors: tuple[type[BaseException], ...] = (
        *(KombuError, OSError),
        *(*connection.connection_errors, *connection.channel_errors),
    )
    try:
        connection.ensure_connection(max_retries=1, interval_start=_RETRY_S, timeout=_TIMEOUT_S)
        _send(app, connection, keys)
        connection.close()
    except errors as error:
        connection.collect()  # closes the socket at once; `close` would wait for the broker
        return error
    return None


def _send(app: "Celery", connection: "Connection", keys: list[ShardKey]) -> None:
    producer = app.amqp.Producer(connection)
    for key in keys:
        app.send_task(
            task_name(key.stage), args=task_arguments(key), producer=producer, retry=False
        )
