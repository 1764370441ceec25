"""The score stage: predicts quality and tokens of a shard's jobs by the batch's checkpoint."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from routoo.domain.job import Lease
from routoo.domain.model_prior import GENERAL_CHECKPOINT
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import prompt_text
from routoo.errors import CheckpointError
from routoo.judge.files import pack_judge
from routoo.pipeline.request_facts import pack_jobs
from routoo.ports import Predictor
from routoo.store import checkpoints, jobs, predictions, request_facts
from routoo.store.batches.records import BatchRecord
from routoo.store.checkpoints import CheckpointRecord
from routoo.store.database import Database

_CACHED = 3
"""Predictors held in memory: the one in use, the one of batches submitted before it, the general
one."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ScoringCheckpoint:
    """A checkpoint as scorers use it."""

    weights_sha256: str
    predictor: Predictor
    judge: bytes | None = None
    """Its judge of answers as one file, put down for dispatchers; None where it has none."""


async def score_shard(
    db: Database,
    predictor: Predictor,
    lease: Lease,
    batch: BatchRecord,
    *,
    judge: bytes | None = None,
) -> None:
    """Predict quality and completion tokens of every candidate for a shard's jobs.

    The predictor computes in a thread, so that the lease is renewed meanwhile.

    Args:
        db: The store.
        predictor: Must know every model of the batch's pool.
        lease: The shard; renewed by the caller.
        batch: The shard's batch.
        judge: The judge of its answers as one file; None where the checkpoint has none.

    Raises:
        CheckpointError: The predictor does not know a model of the pool, or can't promise a floor
            with the confidence asked for.
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        slice_ = await jobs.load_slice(conn, lease.key.batch_id, lease.first_job, lease.job_count)
    # Bodies are read here anyway: selections then need not read them again.
    reads_options = judge is not None and batch.call_options.cascade
    facts = await asyncio.to_thread(pack_jobs, slice_, reads_options=reads_options)
    prompts = [prompt_text(job.body) for job in slice_]
    names = [model.predicted_as for model in batch.pool.models]
    predicted = await asyncio.to_thread(predictor.predict, prompts, names)
    confidence = batch.objective.floor_confidence
    async with db.transaction() as conn:
        await predictions.save_prompt_factors(conn, lease, predictor.prompt_factors(names))
        if confidence is not None:
            margins = predictor.floor_margins(names, confidence)
            await predictions.save_margins(conn, lease, margins)
        if judge is not None and batch.call_options.cascade:
            await checkpoints.keep_judge(conn, lease, judge)
        if facts is not None:
            await request_facts.save(conn, lease, facts)
        await predictions.save(conn, lease, predicted)


@dataclass(slots=True)
class PredictorCache:
    """Loads the predictor that scores a batch: of the checkpoint in use when it was submitted.

    So every scorer scores a batch by the same checkpoint, whenever it does, and a promotion or a
    rollback takes effect with the next batch, without a restart. A pool with a model that this
    checkpoint can neither estimate nor place is scored by the general one as a whole.

    Attributes:
        db: Where the registry is.
        default: Checkpoint of batches that were submitted before any was promoted.
        general: Checkpoint that places any model by its prior.
        threads: Most threads that read prompts on a CPU; None for one a core.
    """

    db: Database
    default: Path
    general: Path = GENERAL_CHECKPOINT
    threads: int | None = None
    _loaded: OrderedDict[Path, ScoringCheckpoint] = field(default_factory=OrderedDict)
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def warm_up(self) -> None:
        """Load the predictor that the next batch will need.

        Raises:
            CheckpointError: It can't be used.
        """
        await self.current()

    async def current(self, models: Sequence[CandidateModel] = ()) -> ScoringCheckpoint:
        """Return the checkpoint that scores what comes now for these models.

        Raises:
            CheckpointError: It can't be used.
        """
        async with self.db.transaction() as conn:
            promoted = await checkpoints.promoted(conn)
        return await self._covering(await self._get(promoted), models)

    async def of(self, batch: BatchRecord) -> ScoringCheckpoint:
        """Return the checkpoint that scores a batch.

        Raises:
            CheckpointError: Its checkpoint can't be used.
        """
        async with self.db.transaction() as conn:
            promoted = await checkpoints.promoted(conn, at=batch.created_at)
        return await self._covering(await self._get(promoted), batch.pool.models)

    async def _covering(
        self, found: ScoringCheckpoint, models: Sequence[CandidateModel]
    ) -> ScoringCheckpoint:
        """Return what knows all models: the checkpoint in use, or else the general one."""
        predictor = found.predictor.covering(models)
        if predictor is None:
            try:
                found = await self._load(self.general, None)
            except CheckpointError:
                return found  # it will name the models that it does not know
            predictor = found.predictor.covering(models)
        return found if predictor is None else replace(found, predictor=predictor)

    async def _get(self, promoted: CheckpointRecord | None) -> ScoringCheckpoint:
        path = self.default if promoted is None else Path(promoted.path)
        return await self._load(path, None if promoted is None else promoted.weights_sha256)

    async def _load(self, path: Path, wanted: str | None) -> ScoringCheckpoint:
        """Return a folder's checkpoint, which must have the wanted weights where some are named."""
        async with self._loading:
            found = self._loaded.get(path)
            if found is None or (wanted is not None and found.weights_sha256 != wanted):
                found = await asyncio.to_thread(_load, path, self.threads)
                self._loaded[path] = found
            if wanted is not None and found.weights_sha256 != wanted:
                raise CheckpointError(
                    "the folder does not hold the checkpoint that was promoted",
                    where=str(path),
                    value=found.weights_sha256,
                    remedy=f"Copy the checkpoint with the weights {wanted} there",
                )
            self._loaded.move_to_end(path)
            while len(self._loaded) > _CACHED:
                self._loaded.popitem(last=False)
            return found


def _load(path: Path, threads: int | None) -> ScoringCheckpoint:
    # Here and not above: PyTorch takes seconds to import and only scorers need it.
    from routoo.predictor.predictor import load_predictor

    predictor, judge = load_predictor(path, threads=threads), pack_judge(path)
    weights_sha256 = predictor.manifest.weights_sha256
    judges_answers = judge is not None
    _log.info(
        "checkpoint.loaded", path=str(path), weights=weights_sha256[:12], judges=judges_answers
    )
    return ScoringCheckpoint(weights_sha256, predictor, judge)
