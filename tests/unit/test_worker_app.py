"""The Celery app's promises: JSON, late acknowledgements, nothing kept in pickles."""

from datetime import timedelta
from uuid import UUID

import pytest

from routoo.domain.job import ShardKey, Stage
from routoo.errors import ConfigError
from routoo.settings import Settings
from worker.queue import RECOVER_TASK, create_app
from routoo.task_queue import message, queue, task_name, transport_options

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


def test_the_schedule_is_kept_in_memory_not_in_a_pickle_file() -> None:
    conf = create_app(Settings(recovery_interval_s=7), REDIS).conf
    assert conf.beat_scheduler == "celery.beat:Scheduler"
    entry = conf.beat_schedule["recover"]
    assert entry["task"] == RECOVER_TASK
    assert timedelta(seconds=entry["schedule"]) == timedelta(seconds=7)


def test_rabbitmq_confirms_publishes_and_replicates_queues() -> None:
    assert transport_options(AMQP, task_time_limit_s=60)["confirm_publish"] is True
    assert queue("score", AMQP).queue_arguments == {"x-queue-type": "quorum"}


def test_redis_gives_a_task_its_whole_time_before_another_worker_gets_the_message() -> None:
    options = transport_options(REDIS, task_time_limit_s=600)
    assert options["visibility_timeout"] > 600
    assert queue("score", REDIS).queue_arguments is None


def test_a_broker_of_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"ROUTOO_BROKER_URL.*sqs"):
        create_app(Settings(), "sqs://")


def test_a_message_names_a_shard_and_nothing_else() -> None:
    key = ShardKey(UUID(int=7), Stage.SCORE, 3)
    assert message(key) == ("00000000-0000-0000-0000-000000000007", 3)
    assert task_name(key.stage) == "routoo.score"
