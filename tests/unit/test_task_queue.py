"""What the producer's and the workers' Celery apps agree on, and what each adds."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from producer import queue as producer_queue
from routoo.domain.job import ShardKey, Stage
from routoo.errors import ConfigError
from routoo.settings import Settings
from routoo.task_queue import check_refusal, task_arguments, task_name
from worker.queue import RECOVER_TASK, create_app

AMQP = "amqp://guest:guest@localhost:5672//"
REDIS = "redis://localhost:6379/0"


@pytest.mark.parametrize("url", [AMQP, REDIS, "redis+socket:///tmp/valkey.sock"])
def test_an_app_accepts_only_json_and_acknowledges_late(url: str) -> None:
    conf = create_app(Settings(), url).conf
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_acks_late
    assert conf.worker_prefetch_multiplier == 1
    assert conf.result_backend is None


@pytest.mark.parametrize("url", [AMQP, REDIS])
def test_the_producer_declares_its_queues_as_the_workers_do(url: str) -> None:
    def queues(app: Any) -> dict[str, Any]:
        return {name: queue.as_dict(recurse=True) for name, queue in app.amqp.queues.items()}

    assert queues(producer_queue._app(url)) == queues(create_app(Settings(), url))


def test_the_schedule_is_kept_in_memory_not_in_a_pickle_file() -> None:
    conf = create_app(Settings(recovery_interval_s=7), REDIS).conf
    assert conf.beat_scheduler == "celery.beat:Scheduler"
    entry = conf.beat_schedule["recover"]
    assert entry["task"] == RECOVER_TASK
    assert timedelta(seconds=entry["schedule"]) == timedelta(seconds=7)


def test_rabbitmq_confirms_publishes_and_replicates_queues() -> None:
    for app in (create_app(Settings(), AMQP), producer_queue._app(AMQP)):
        assert app.conf.broker_transport_options["confirm_publish"] is True
        queue = app.amqp.queues["score"]
        assert queue.queue_arguments == {"x-queue-type": "quorum"}
        assert queue.durable
        assert (queue.exchange.name, queue.exchange.type) == ("routoo", "direct")


def test_redis_gives_a_task_its_whole_time_before_another_worker_gets_the_message() -> None:
    app = create_app(Settings(task_time_limit_s=600), REDIS)
    assert app.conf.broker_transport_options["visibility_timeout"] > 600
    assert app.amqp.queues["score"].queue_arguments is None


def test_a_broker_of_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"ROUTOO_BROKER_URL.*sqs"):
        create_app(Settings(), "sqs://")


def test_a_message_names_a_shard_and_nothing_else() -> None:
    key = ShardKey(UUID(int=7), Stage.SCORE, 3)
    assert task_arguments(key) == ("00000000-0000-0000-0000-000000000007", 3)
    assert task_name(key.stage) == "routoo.score"


def test_a_refusal_of_the_broker_is_told_from_one_that_is_away() -> None:
    check_refusal(ConnectionRefusedError())
    outer = OSError("wrapped")
    refused = type("AccessRefused", (Exception,), {})  # as amqp names it
    outer.__cause__ = refused("PLAIN login refused.")
    with pytest.raises(ConfigError, match=r"ROUTOO_BROKER_URL: .* PLAIN login refused. Correct"):
        check_refusal(outer)
