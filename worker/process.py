"""Runs one worker process: a Celery worker of one role, until it is asked to stop."""

import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import structlog
from celery import Celery, signals
from celery.apps.worker import Worker
from celery.beat import EmbeddedService
from celery.platforms import SecurityWarning

from routoo.pipeline.select.drift import ReplanOptions
from routoo.settings import Settings
from worker.background import background_ticks
from worker.metrics import serving_metrics
from worker.queue import RECOVER_TASK, create_app
from worker.roles import Role, concurrency, queues
from worker.runtime import Runtime, open_runtime, required_url
from worker.tasks import register_recovery, register_replanning, register_stages

_log = structlog.get_logger(__name__)


def run_role(role: Role, settings: Settings, *, on_ready: Callable[[], None]) -> int:
    """Work until the process is asked to stop.

    Args:
        role: What to do.
        settings: Both URLs must be set.
        on_ready: Called once the worker consumes messages (a scorer: with its model loaded).

    Returns:
        The process's exit status.

    Raises:
        RoutooError: The worker can't start; the class of the error tells the reason.
    """
    broker_url = required_url(settings.broker_url, "ROUTOO_BROKER_URL")
    app = create_app(settings, broker_url)
    with open_runtime(role, settings) as runtime:
        _register(app, role, settings, runtime)
        worker = _worker(app, role, settings)
        with ExitStack() as exits:
            exits.enter_context(_signals_connected(runtime, on_ready))
            if role is Role.BEAT:
                _start_beat(app, settings, runtime, exits)
            worker.start()
        _log.info("worker.stopped")
        return int(worker.exitcode or 0)


def _register(app: Celery, role: Role, settings: Settings, runtime: Runtime) -> None:
    if role is Role.BEAT:
        limit = settings.max_shard_attempts
        register_recovery(app, runtime.loop, runtime.db, max_failures=limit)
        options = ReplanOptions(settings.replan_drift, settings.replan_interval_s)
        register_replanning(app, runtime.loop, runtime.db, options)
    else:
        register_stages(app, runtime.loop, runtime.worker)


def _start_beat(app: Celery, settings: Settings, runtime: Runtime, exits: ExitStack) -> None:
    database_url = required_url(settings.database_url, "ROUTOO_DATABASE_URL")
    exits.enter_context(background_ticks(settings, database_url))
    exits.enter_context(serving_metrics(settings, runtime.loop, runtime.db))
    app.send_task(RECOVER_TASK)  # at once: shards may have waited for long
    EmbeddedService(app, thread=True, scheduler_cls=app.conf.beat_scheduler).start()


def _worker(app: Celery, role: Role, settings: Settings) -> Worker:
    # A node's name must be unique: two of one name lock each other out (RESOURCE_LOCKED).
    name = f"{role.value}-{os.getpid()}@{socket.gethostname()}"
    # Celery warns of root because of pickle; this app accepts JSON only.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    return app.Worker(
        hostname=name,
        queues=list(queues(role)),
        # Threads: heartbeats go on during a long task, and nothing forks with CUDA.
        pool="threads",
        concurrency=concurrency(role, settings),
        quiet=True,
        loglevel=settings.log_level,
        # Workers need not know each other: leases in the database keep them apart.
        without_gossip=True,
        without_mingle=True,
    )


@contextmanager
def _signals_connected(runtime: Runtime, on_ready: Callable[[], None]) -> Iterator[None]:
    """Pass Celery's signals on to the runtime while the worker runs."""

    def ready(**_: object) -> None:
        # Celery takes Ctrl-C and SIGQUIT for a cold shutdown, which fails tasks of a thread pool
        # and acknowledges their messages (celery#10490): drain instead, whatever the signal.
        for number in (signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.getsignal(signal.SIGTERM))
        _log.info("worker.ready")
        on_ready()

    def shutting_down(**_: object) -> None:
        runtime.loop.signal(runtime.worker.stop)

    def keep_logging(**_: object) -> None:
        """Keep Celery from setting up logging: a receiver of this signal prevents it."""

    connected = {
        signals.worker_ready: ready,
        signals.worker_shutting_down: shutting_down,
        signals.setup_logging: keep_logging,
    }
    for sent, receiver in connected.items():
        sent.connect(receiver)
    try:
        yield
    finally:
        for sent, receiver in connected.items():
            sent.disconnect(receiver)
