"""The score stage: predictions for every job of a shard."""

import asyncio

from routoo.domain.job import Lease
from routoo.domain.prompt import prompt_text
from routoo.ports import Predictor
from routoo.store import floors, jobs, predictions
from routoo.store.batches import BatchRecord
from routoo.store.database import Database


async def score_shard(db: Database, predictor: Predictor, lease: Lease, batch: BatchRecord) -> None:
    """Predict quality and completion tokens of every candidate for a shard's jobs.

    The predictor computes in a thread, so that the lease is renewed meanwhile.

    Args:
        db: The store.
        predictor: Must know every model of the batch's pool.
        lease: The shard; renewed by the caller.
        batch: The shard's batch.

    Raises:
        CheckpointError: The predictor does not know a model of the pool, or can't promise a floor
            with the confidence asked for.
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        slice_ = await jobs.load_slice(conn, lease.key.batch_id, lease.first_job, lease.job_count)
    prompts = [prompt_text(job.body) for job in slice_]
    names = [model.predicted_as for model in batch.pool.models]
    predicted = await asyncio.to_thread(predictor.predict, prompts, names)
    confidence = batch.objective.floor_confidence
    async with db.transaction() as conn:
        if confidence is not None:
            margins = predictor.floor_margins(names, confidence)
            await floors.save(conn, lease, margins)
        await predictions.save(conn, lease, predicted)
