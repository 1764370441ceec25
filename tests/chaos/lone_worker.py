"""A worker without a broker that does all stages of one batch, in a process that may be killed."""

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import numpy as np

from routoo.client.endpoints import ChatEndpoints
from routoo.client.provider_batches import ProviderBatches
from routoo.domain.job import Lease, ShardKey, Stage
from routoo.domain.prediction import Predictions
from routoo.pipeline.dispatch.shard import DispatchOptions, dispatch_shard
from routoo.pipeline.provider_batch.channel import ProviderChannel
from routoo.pipeline.provider_batch.tracker import BatchTracker, ChannelOptions
from routoo.pipeline.score import score_shard
from routoo.pipeline.select.shard import select_shard
from routoo.pipeline.shard_work import ShardWorker, StageWork
from routoo.store import batches, leases
from routoo.store.batches import BatchRecord
from routoo.store.database import Database
from routoo.store.endpoints import DatabaseLimits
from routoo.store.shards import Done, WorkOutcome
from tests.chaos.crash_points import CrashPoint, CrashPoints

LEASE_S = 0.6
_PAUSE_S = 0.05
_MOST_TIMES = 3


class Guess:
    """A predictor that knows nothing."""

    def predict(self, prompts: Sequence[str], models: Sequence[str]) -> Predictions:
        shape = len(prompts), len(models)
        return Predictions(
            quality=np.full(shape, 0.5, np.float32),
            quality_std=np.zeros(shape, np.float32),
            completion_tokens=np.full(shape, 3, np.float32),
            novelty=np.zeros(len(prompts), np.float32),
            truncated=np.zeros(len(prompts), np.bool_),
        )

    def prompt_factors(self, models: Sequence[str]) -> Sequence[float]:
        return [1.0 for _ in models]

    def floor_margins(self, models: Sequence[str], confidence: float) -> Sequence[float]:
        return [confidence * 0 for _ in models]


def run(database_url: str, batch_id: UUID, crash_at: CrashPoint | None, seen: Path | None) -> None:
    """Work until the batch is over, or until the crash point; the body of a process.

    Args:
        database_url: Where the batch is.
        batch_id: The only batch that is worked on.
        crash_at: Where this process ends.
        seen: File for the points that were reached.
    """
    points = CrashPoints(crash_at)
    points.watch_commits()
    asyncio.run(_work(database_url, batch_id))
    if seen is not None:
        seen.write_text(json.dumps([str(point) for point in points.points(_MOST_TIMES)]))


async def _work(database_url: str, batch_id: UUID) -> None:
    async with contextlib.AsyncExitStack() as exits:
        db = await exits.enter_async_context(Database(database_url, max_size=8))
        client = await exits.enter_async_context(ChatEndpoints(limits=DatabaseLimits(db)))
        provider = await exits.enter_async_context(ProviderBatches(timeout_s=2.0))
        owner = f"lone-{os.getpid()}"
        me = ShardWorker(db, owner, _stages(db, client, provider), lease_s=LEASE_S, max_failures=5)
        while not await _is_over(db, batch_id):
            due = await _due(db, batch_id)
            await asyncio.gather(*(me.handle(key) for key in due))
            await asyncio.sleep(0 if due else _PAUSE_S)


def _stages(
    db: Database, client: ChatEndpoints, provider: ProviderBatches
) -> dict[Stage, StageWork]:
    options = ChannelOptions(poll_s=0.1, longest_poll_s=0.2, create_grace_s=0.3)
    channel = ProviderChannel(BatchTracker(db, provider, options, client.behaviour))

    async def score(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        await score_shard(db, Guess(), lease, batch)
        return Done()

    async def select(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        await select_shard(db, lease, batch)
        return Done()

    async def dispatch(lease: Lease, batch: BatchRecord) -> WorkOutcome:
        async def call() -> WorkOutcome:
            return await dispatch_shard(
                db, client, lease, batch, options=DispatchOptions(), stop=asyncio.Event()
            )

        return await channel.dispatch(lease, batch, call)

    works = {Stage.SCORE: score, Stage.SELECT: select, Stage.DISPATCH: dispatch}
    return {stage: StageWork(work) for stage, work in works.items()}


async def _is_over(db: Database, batch_id: UUID) -> bool:
    async with db.transaction() as conn:
        return (await batches.status(conn, batch_id)).is_over


async def _due(db: Database, batch_id: UUID) -> list[ShardKey]:
    async with db.transaction() as conn:
        found = [key for stage in Stage for key in await leases.due(conn, stage, 10_000)]
    return [key for key in found if key.batch_id == batch_id]
