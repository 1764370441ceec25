"""Every broker keeps the promises that the workers build on.

The embedded Valkey is always tested; others are named in ROUTOO_TEST_BROKER_URLS, comma separated.
Their queues `score`, `select`, `dispatch` and `control` are emptied.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from celery import Celery
from kombu.entity import Queue
from kombu.message import Message

from producer import queue as producer_queue
from routoo.domain.job import ShardKey, Stage
from routoo.embedded.valkey import EmbeddedValkey
from routoo.errors import BrokerUnavailableError
from routoo.settings import Settings
from worker.queue import ShardConsumer, check_broker, count_waiting, create_app, publish

CONSUMER = Path(__file__).with_name("broker_consumer.py")
BATCH = UUID(int=5)
EMBEDDED = "embedded"
OTHERS = [url for url in os.environ.get("ROUTOO_TEST_BROKER_URLS", "").split(",") if url]


@pytest.fixture(scope="module", params=[EMBEDDED, *OTHERS], ids=lambda url: url.split(":")[0])
def broker_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param != EMBEDDED:
        yield request.param
        return
    server = EmbeddedValkey(tmp_path_factory.mktemp("home"))
    yield server.start()
    server.stop()


@pytest.fixture
def app(broker_url: str) -> Iterator[Celery]:
    app = create_app(Settings(), broker_url)
    purge(app)
    yield app
    purge(app)
    app.close()


def purge(app: Celery) -> None:
    with app.connection_for_write() as connection, connection.channel() as channel:
        for stage in Stage:
            queue: Queue = app.amqp.queues[stage.value].bind(channel)
            queue.declare()
            queue.purge()


def keys(count: int) -> list[ShardKey]:
    return [ShardKey(BATCH, Stage.SCORE, number) for number in range(count)]


@contextmanager
def consumer(
    broker_url: str, task_time_limit_s: float = 600.0
) -> Iterator["subprocess.Popen[str]"]:
    """Run a worker process that holds on to whatever it gets, and kill it in the end.

    Redis puts what is held for twice the time limit back into the queue: a test that counts the
    queue needs a limit that it does not reach, however busy the machine.
    """
    command = [sys.executable, str(CONSUMER), broker_url, str(task_time_limit_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert line(process) == "ready"
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_messages_wait_in_their_stages_queue(app: Celery) -> None:
    publish(app, keys(3))
    assert [count_waiting(app, stage) for stage in Stage] == [3, 0, 0]


def test_a_killed_workers_message_comes_back(app: Celery, broker_url: str) -> None:
    publish(app, keys(1))
    with consumer(broker_url, task_time_limit_s=1.0) as first:
        assert line(first) == f"got {BATCH} 0"
    with consumer(broker_url, task_time_limit_s=1.0) as second:
        assert line(second) == f"got {BATCH} 0"


def test_a_worker_takes_no_message_that_it_can_not_work_on(app: Celery, broker_url: str) -> None:
    publish(app, keys(3))
    with consumer(broker_url) as process:
        assert line(process).startswith("got")
        assert count_waiting(app, Stage.SCORE) == 2


def test_workers_understand_the_producers_messages(app: Celery, broker_url: str) -> None:
    producer_queue.publish(broker_url, Stage.SCORE, BATCH, 2)
    assert count_waiting(app, Stage.SCORE) == 2
    with consumer(broker_url) as process:
        assert line(process) == f"got {BATCH} 0"


def test_a_broker_that_is_away_is_no_error_for_a_worker_that_publishes() -> None:
    app = create_app(Settings(), "amqp://127.0.0.1:1//")
    publish(app, keys(1))


def test_a_worker_outlives_a_redis_that_refuses_to_write(app: Celery, broker_url: str) -> None:
    if not broker_url.startswith("redis"):
        pytest.skip("as a failover, a full disk or a full memory make a Redis do")
    with consumer(broker_url) as process, app.connection_for_write() as connection:
        redis = connection.default_channel.client
        redis.config_set("min-replicas-to-write", 1)
        try:
            publish(app, keys(1))  # is no error either
            time.sleep(3.0)
            assert process.poll() is None
        finally:
            redis.config_set("min-replicas-to-write", 0)
        publish(app, keys(1))
        assert line(process) == f"got {BATCH} 0"


@pytest.mark.parametrize("url", ["redis://127.0.0.1:{}/0", "amqp://guest:guest@127.0.0.1:{}//"])
def test_a_broker_that_answers_nothing_delays_a_producer_by_its_time_limit(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_queue, "_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match="Don't submit again"):
            producer_queue.publish(url.format(silent.getsockname()[1]), Stage.SCORE, BATCH, 1)
    assert time.monotonic() - started < 30  # without the limit: for ever


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://127.0.0.1:1//"])
def test_a_broker_that_is_away_is_said_to_be_so_within_seconds(url: str) -> None:
    started = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match="the broker can't be reached"):
        producer_queue.publish(url, Stage.SCORE, BATCH, 1)
    assert time.monotonic() - started < 15  # three and a last try, on a busy machine


def test_a_broker_that_starts_again_has_a_submissions_messages(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    url = server.start()
    app = create_app(Settings(), url)
    server.stop()
    starts = threading.Timer(1.5, server.start)
    starts.start()
    try:
        producer_queue.publish(url, Stage.SCORE, BATCH, 3)
        assert count_waiting(app, Stage.SCORE) == 3
    finally:
        starts.join()
        app.close()
        server.stop()


def test_a_worker_waits_a_moment_for_a_broker_that_starts_with_it(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    url = server.start()
    server.stop()
    starts = threading.Timer(0.5, server.start)
    starts.start()
    try:
        check_broker(url)
    finally:
        starts.join()
        server.stop()


@pytest.mark.filterwarnings("ignore:(?s).*In Celery 5.1:PendingDeprecationWarning")
def test_a_message_that_can_not_be_given_back_ends_no_worker(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(app, keys(1))
    connection = app.connection_for_read()
    taken: list[Message] = []
    queue = app.amqp.queues[Stage.SCORE.value]
    messages = connection.Consumer(queue, callbacks=[lambda _body, one: taken.append(one)])
    messages.consume()
    while not taken:
        connection.drain_events(timeout=10)
    # As kombu leaves it for Redis where the broker went away while another channel was closed.
    monkeypatch.setattr(connection, "collect", lambda **_: None)
    monkeypatch.setattr(connection.transport, "client", None)
    consumer = object.__new__(ShardConsumer)
    consumer.connection, consumer.app, consumer.task_consumer = connection, app, messages
    app.conf.worker_enable_prefetch_count_reduction = False  # there is no pool of threads here
    consumer.on_connection_error_after_connected(ConnectionError("reset"))
    assert consumer.connection is None
    taken[0].ack()  # as its task ends
