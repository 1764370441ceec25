"""Composition root of a worker process: one event loop, one pool of connections, one model."""

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import SecretStr

from routoo.client.endpoints import ChatEndpoints
from routoo.client.provider_batches import ProviderBatches
from routoo.client.token_counts import TokenCounters
from routoo.domain.job import Lease, Stage
from routoo.errors import ConfigError
from routoo.pipeline.dispatch.shard import DispatchOptions, dispatch_shard
from routoo.pipeline.provider_batch.channel import ProviderChannel
from routoo.pipeline.provider_batch.tracker import ChannelOptions, Visitor
from routoo.pipeline.score import PredictorCache, score_shard
from routoo.pipeline.select.replan import decide_batch
from routoo.pipeline.shard_work import ShardWorker, StageWork
from routoo.ports import BatchProvider, ChatClient
from routoo.settings import Settings
from routoo.store.batches import BatchRecord
from routoo.store.database import Database
from routoo.store.endpoint_limits import DatabaseLimits
from routoo.store.shards import Done, WorkOutcome
from worker.collector import calm_collector
from worker.loop import LoopThread
from worker.roles import Role, concurrency

T = TypeVar("T")

_CONNECTIONS_PER_TASK = 2
"""One for the stage's writes, one for its lease."""
_CONNECTIONS_PER_PROCESS = 2
"""One for the endpoints' accounts, one to spare."""
_DRAIN_MARGIN_S = 2.0
"""Time to settle what ended within the dispatcher's own grace."""
_CREATE_GRACE_FACTOR = 2.0
"""A request to a provider is over for certain after this many of its time limits."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the tasks of one worker process share."""

    loop: LoopThread
    db: Database
    worker: ShardWorker


@contextmanager
def open_runtime(role: Role, settings: Settings) -> Iterator[Runtime]:
    """Build what a role needs, once a process, and take it down again.

    Raises:
        ConfigError: No database is named.
        CheckpointError: A scorer's checkpoint can't be used.
        DatabaseUnavailableError: The database can't be reached.
    """
    url = required_url(settings.database_url, "ROUTOO_DATABASE_URL")
    most = concurrency(role, settings) * _CONNECTIONS_PER_TASK + _CONNECTIONS_PER_PROCESS
    with ExitStack() as stack:
        loop = stack.enter_context(LoopThread())
        db = _enter(stack, loop, Database(url, max_size=most))
        stop = asyncio.Event()
        stages = _stages(role, settings, stack, loop, db, stop)
        worker = ShardWorker(
            db,
            _owner(role),
            stages,
            lease_s=settings.lease_s,
            max_failures=settings.max_shard_attempts,
            stop=stop,
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


def _stages(
    role: Role,
    settings: Settings,
    stack: ExitStack,
    loop: LoopThread,
    db: Database,
    stop: asyncio.Event,
) -> Mapping[Stage, StageWork]:
    if role is Role.SCORER:
        predictors = PredictorCache(db, settings.checkpoint)
        loop.run(predictors.warm_up())
        return {Stage.SCORE: _score(db, predictors)}
    if role is Role.DISPATCHER:
        calm_collector()
        counters = TokenCounters()
        client = ChatEndpoints(limits=DatabaseLimits(db), counters=counters)
        provider = ProviderBatches(timeout_s=settings.channel_timeout_s, counters=counters)
        channel = _channel(db, _enter(stack, loop, provider), settings)
        dispatch = _dispatch(db, _enter(stack, loop, client), channel, settings, stop)
        return {Stage.SELECT: _select(db), Stage.DISPATCH: _with_tokenizers(counters, dispatch)}
    return {}


def _score(db: Database, predictors: PredictorCache) -> StageWork:
    async def work(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        await score_shard(db, await predictors.of(batch), lease, batch)
        return Done()

    return StageWork(work)


def _select(db: Database) -> StageWork:
    async def work(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        await decide_batch(db, lease, batch)
        return Done()

    return StageWork(work)


def _channel(db: Database, provider: BatchProvider, settings: Settings) -> ProviderChannel:
    options = ChannelOptions(
        poll_s=settings.channel_poll_s,
        create_grace_s=settings.channel_timeout_s * _CREATE_GRACE_FACTOR,
    )
    return ProviderChannel(Visitor(db, provider, options))


def _dispatch(
    db: Database,
    client: ChatClient,
    channel: ProviderChannel,
    settings: Settings,
    stop: asyncio.Event,
) -> StageWork:
    options = DispatchOptions(
        max_attempts_per_model=settings.max_attempts_per_model,
        time_limit_s=settings.task_time_limit_s,
    )

    async def work(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        async def call() -> WorkOutcome:
            return await dispatch_shard(db, client, lease, batch, options=options, stop=stop)

        return await channel.dispatch(lease, batch, call)

    return StageWork(work, grace_s=options.drain_grace_s + _DRAIN_MARGIN_S)


def _with_tokenizers(counters: TokenCounters, stage: StageWork) -> StageWork:
    """Return a stage that begins with the tokenizers of the batch's pool, so that none lacks."""

    async def work(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        await asyncio.to_thread(counters.load, batch.pool.models)
        return await stage.work(lease, batch)

    return replace(stage, work=work)


def _enter(stack: ExitStack, loop: LoopThread, manager: AbstractAsyncContextManager[T]) -> T:
    """Enter an async context manager on the loop, to be left there too."""

    async def enter() -> T:
        return await manager.__aenter__()

    async def leave() -> None:
        await manager.__aexit__(None, None, None)

    value = loop.run(enter())
    stack.callback(lambda: loop.run(leave()))
    return value
