"""Runs one worker process of a role: composes it, and serves until it is asked to stop.

It has one event loop, one pool of connections and one model.
"""

import asyncio
import gc
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import structlog
from celery import Celery, signals
from celery.apps.worker import Worker
from celery.beat import EmbeddedService
from celery.platforms import SecurityWarning
from kombu.exceptions import OperationalError
from pydantic import SecretStr

from routoo.client.endpoints import ChatEndpoints
from routoo.client.http import HttpClient
from routoo.client.provider_batches import ProviderBatches
from routoo.client.token_counts import TokenCounters
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.job import Lease, Stage
from routoo.errors import ConfigError
from routoo.loop_thread import LoopThread
from routoo.pipeline.dispatch.shard import DispatchOptions, dispatch_shard
from routoo.pipeline.provider_batch.channel import ProviderChannel
from routoo.pipeline.provider_batch.tracker import BatchTracker, ChannelOptions
from routoo.pipeline.score import PredictorCache, score_shard
from routoo.pipeline.select.drift import ReplanOptions
from routoo.pipeline.select.shard import give_memory_back, select_shard
from routoo.pipeline.shard_work import ShardWorker, StageWork
from routoo.ports import BatchProvider
from routoo.settings import Settings
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database
from routoo.store.endpoints import DatabaseLimits
from routoo.store.shards import Done, WorkOutcome
from routoo.tracing import tracing
from worker.metrics import serving_metrics
from worker.queue import RECOVER_TASK, ShardConsumer, create_app, publish
from worker.roles import Role, concurrency, connections, queues, slow_shards
from worker.tasks import (
    background_ticks,
    heartbeat,
    register_recovery,
    register_replanning,
    register_stages,
)

T = TypeVar("T")

_URGENT_PER_TICK = 2
"""Looks for urgent shards in one recovery interval."""
_SELECTIONS = 2
"""Selections that a dispatcher works on beside its threads."""
_DRAIN_MARGIN_S = 2.0
"""Time to account for calls that ended within the dispatcher's own grace."""
_CREATE_GRACE_FACTOR = 2.0
"""A request to a provider is over for certain after this many of its time limits."""
_YOUNG_OBJECTS = 100_000
"""More than the jobs of the shards at work hold: most are freed before a collection."""
_ROUNDS = 10
"""Collections of a generation before the next older one is collected too."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the tasks of one worker process share."""

    loop: LoopThread
    db: Database
    worker: ShardWorker


@contextmanager
def open_runtime(role: Role, settings: Settings) -> Iterator[Runtime]:
    """Build what a role needs, once a process, and close it in the end.

    Raises:
        ConfigError: No database is named.
        CheckpointError: A scorer's checkpoint can't be used.
        DatabaseUnavailableError: The database can't be reached.
    """
    url = required_url(settings.database_url, "ROUTOO_DATABASE_URL")
    with ExitStack() as exits:
        loop = exits.enter_context(LoopThread())
        db = _enter(exits, loop, Database(url, max_size=connections(role, settings)))
        base = _Base(settings, exits, loop, db, asyncio.Event())
        worker = ShardWorker(
            db,
            _owner(role),
            _stages(role, base),
            lease_s=settings.lease_s,
            max_failures=settings.max_shard_attempts,
            stop=base.stop,
            most_slow=slow_shards(settings),
        )
        yield Runtime(loop, db, worker)


def required_url(url: SecretStr | None, variable: str) -> str:
    """Return a URL that a single role can't do without.

    Raises:
        ConfigError: It is not set.
    """
    if url is None:
        raise ConfigError(
            "a single role needs a server that others reach too",
            where=variable,
            remedy="Set it, or start the whole embedded stack with `routoo-worker up`",
        )
    return url.get_secret_value()


def _owner(role: Role) -> str:
    return f"{role.value}@{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, slots=True)
class _Base:
    """What every stage is built on."""

    settings: Settings
    exits: ExitStack
    """Closes what the stages opened when the process ends."""
    loop: LoopThread
    db: Database
    stop: asyncio.Event
    """Set when the worker is asked to stop."""


def _stages(role: Role, base: _Base) -> Mapping[Stage, StageWork]:
    match role:
        case Role.SCORER:
            return {Stage.SCORE: _score(base)}
        case Role.DISPATCHER:
            tune_garbage_collector()
            return {Stage.SELECT: _select(base.db), Stage.DISPATCH: _dispatch(base)}
        case Role.BEAT:
            return {}


def tune_garbage_collector() -> None:
    """Keep imported modules out of every collection, and collect less often.

    Calls in flight are young objects by the thousand, freed by their reference counts: with
    Python's defaults a dispatcher spent a fifth of its time examining them and its modules.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _ROUNDS, _ROUNDS)


def _score(base: _Base) -> StageWork:
    settings = base.settings
    predictors = PredictorCache(base.db, settings.checkpoint, threads=settings.scoring_threads)
    base.loop.run(predictors.warm_up())

    async def work(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        used = await predictors.of(batch)
        await score_shard(base.db, used.predictor, lease, batch, judge=used.judge)
        return Done()

    return StageWork(work)


def _select(db: Database) -> StageWork:
    async def work(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        try:
            await select_shard(db, lease, batch)
        finally:
            give_memory_back()
        return Done()

    return StageWork(work)


def _dispatch(base: _Base) -> StageWork:
    settings, db = base.settings, base.db
    counters = TokenCounters()
    endpoints = ChatEndpoints(
        limits=DatabaseLimits(db),
        counters=counters,
        http=HttpClient(max_bytes=settings.max_answer_bytes, blocked=settings.blocked_networks),
    )
    client = _enter(base.exits, base.loop, endpoints)
    provider = ProviderBatches(
        timeout_s=settings.channel_timeout_s, counters=counters, blocked=settings.blocked_networks
    )
    opened = _enter(base.exits, base.loop, provider)
    channel = _channel(db, opened, settings, client.behaviour)
    options = DispatchOptions(
        max_attempts_per_model=settings.max_attempts_per_model,
        time_limit_s=settings.task_time_limit_s,
    )

    async def work(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        async def call() -> WorkOutcome:
            return await dispatch_shard(db, client, lease, batch, options=options, stop=base.stop)

        return await channel.dispatch(lease, batch, call)

    grace_s = options.drain_grace_s + _DRAIN_MARGIN_S
    return _with_tokenizers(counters, StageWork(work, grace_s=grace_s))


def _channel(
    db: Database, provider: BatchProvider, settings: Settings, behaviour: KnownBehaviour
) -> ProviderChannel:
    options = ChannelOptions(
        poll_s=settings.channel_poll_s,
        create_grace_s=settings.channel_timeout_s * _CREATE_GRACE_FACTOR,
    )
    return ProviderChannel(BatchTracker(db, provider, options, behaviour))


def _with_tokenizers(counters: TokenCounters, stage: StageWork) -> StageWork:
    """Return a stage that loads the tokenizers of the batch's pool first, or fails without one."""

    async def work(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        await asyncio.to_thread(counters.load, batch.pool.models)
        return await stage.work(lease, batch)

    return replace(stage, work=work)


def _enter(exits: ExitStack, loop: LoopThread, manager: AbstractAsyncContextManager[T]) -> T:
    """Enter an async context manager on the loop, and leave it there in the end."""

    async def enter() -> T:
        return await manager.__aenter__()

    async def leave() -> None:
        await manager.__aexit__(None, None, None)

    value = loop.run(enter())
    exits.callback(lambda: loop.run(leave()))
    return value


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
    traced = tracing(
        f"routoo-{role.value}", is_wanted=settings.traces, call_share=settings.trace_calls_share
    )
    with traced, open_runtime(role, settings) as runtime:
        _register(app, role, settings, runtime)
        worker = _worker(app, role, settings)
        with ExitStack() as exits:
            exits.enter_context(_signals_connected(runtime, on_ready))
            exits.enter_context(heartbeat(runtime.loop, runtime.db, _owner(role), role))
            if role is Role.BEAT:
                _start_beat(app, settings, runtime, exits)
            if role is Role.DISPATCHER:
                exits.enter_context(_taking_urgent(app, settings, runtime))
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
    try:
        app.send_task(RECOVER_TASK)  # at once: shards may have waited for long
    except OperationalError as error:
        _log.warning("beat.broker_away", reason=str(error))
    EmbeddedService(app, thread=True, scheduler_cls=app.conf.beat_scheduler).start()


@contextmanager
def _taking_urgent(app: Celery, settings: Settings, runtime: Runtime) -> Iterator[None]:
    """Work on urgent shards beside those of messages; in the end wait for them."""

    async def take(stage: Stage, most: int) -> None:
        await runtime.worker.take_urgent(
            partial(publish, app),
            stages=[stage],
            most=most,
            interval_s=settings.recovery_interval_s / _URGENT_PER_TICK,
        )

    async def start() -> "asyncio.Future[tuple[None, None]]":
        # Apart: a selection never waits for dispatch shards.
        return asyncio.gather(
            take(Stage.SELECT, _SELECTIONS), take(Stage.DISPATCH, settings.dispatch_threads)
        )

    async def stop() -> None:
        runtime.worker.stop.set()
        await taking

    taking = runtime.loop.run(start())
    try:
        yield
    finally:
        runtime.loop.run(stop())


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
        consumer_cls=ShardConsumer,
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
