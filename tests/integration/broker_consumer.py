"""A worker process of the real app whose task holds on to its message; run by test_brokers.

Usage: broker_consumer.py BROKER_URL TASK_TIME_LIMIT_S; prints `ready`, then `got <batch_id>
<shard_no>` for each message.
"""

import os
import sys
import time

from celery import signals

from routoo.settings import Settings
from worker.queue import create_app


def hold(batch_id: str, shard_no: int) -> None:
    """Print what came, then work for ever."""
    print(f"got {batch_id} {shard_no}", flush=True)
    while True:
        time.sleep(1)


def say_ready(**_: object) -> None:
    """Report to the test that messages are consumed."""
    print("ready", flush=True)


def main() -> None:
    """Consume the score queue until killed."""
    url, limit_s = sys.argv[1:]
    app = create_app(Settings(task_time_limit_s=float(limit_s)), url)
    app.task(hold, name="routoo.score")
    signals.worker_ready.connect(say_ready)
    app.Worker(
        hostname=f"test-{os.getpid()}@localhost",
        queues=["score"],
        pool="threads",
        concurrency=1,
        quiet=True,
        loglevel="ERROR",
        without_gossip=True,
        without_mingle=True,
    ).start()


if __name__ == "__main__":
    main()
