"""Small batches in the store, at the stage a test needs."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from routoo.domain.batch_options import CallOptions
from routoo.domain.completion import Attempt, Completion, Reservation, Result, Usage
from routoo.domain.endpoint import Endpoint
from routoo.domain.job import SLA, Lease, ResultStatus, ShardKey, Stage
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.prediction import Assignment, Predictions
from routoo.store import assignments, batches, jobs, leases, ledger, predictions, results, shards
from routoo.store.database import Database

LEASE_S = 60.0
BODY = '{"messages": [{"role": "user", "content": "Where\\tis\\nit?"}]}'


def pool_of(*names: str) -> Pool:
    """Return a pool of models that differ in their names only."""
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                endpoint=Endpoint(base_url="http://localhost:1/v1"),
                price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(2)),
                context_window_tokens=4096,
            )
            for name in names
        )
    )


async def submit(
    db: Database,
    job_count: int = 4,
    *,
    shard_size: int = 2,
    budget_usd: str | None = None,
    key: str | None = None,
    slas: Sequence[SLA] = (),
    **options: Any,
) -> UUID:
    """Submit a batch of jobs `job-0`, `job-1`, ... over the models `small` and `large`.

    Further options are those of `NewBatch`.
    """
    new = batches.NewBatch(
        name="example",
        pool=pool_of("small", "large"),
        idempotency_key=key,
        budget_usd=None if budget_usd is None else Decimal(budget_usd),
        **{"call_options": CallOptions(dedupe=False), **options},  # the jobs are alike
    )
    async with db.transaction() as conn:
        batch_id, is_new = await batches.create(conn, new)
        if is_new:
            async with jobs.copy_jobs(conn, batch_id) as copy:
                await copy.write(
                    [
                        jobs.JobInput(n, f"job-{n}", BODY, slas[n] if slas else jobs.NO_LIMITS)
                        for n in range(job_count)
                    ]
                )
            await batches.seal(conn, batch_id, job_count, shard_size)
    return batch_id


async def claim(
    db: Database, batch_id: UUID, stage: Stage, shard_no: int = 0, *, lease_s: float = LEASE_S
) -> Lease:
    """Claim a shard that is known to be free."""
    async with db.transaction() as conn:
        lease = await leases.claim(conn, ShardKey(batch_id, stage, shard_no), "worker", lease_s)
    assert lease is not None
    return lease


async def score(db: Database, batch_id: UUID) -> None:
    """Do the score stage."""
    for shard_no in range(await _shard_count(db, batch_id)):
        lease = await claim(db, batch_id, Stage.SCORE, shard_no)
        async with db.transaction() as conn:
            await predictions.save(conn, lease, predictions_of(lease))
            await shards.finish(conn, lease, shards.Done())


async def select(db: Database, batch_id: UUID) -> None:
    """Do the select stage: every job goes to the small model."""
    lease = await claim(db, batch_id, Stage.SELECT)
    async with db.transaction() as conn:
        plan = [Assignment(n, "small", 0.5, Decimal("0.01")) for n in range(lease.job_count)]
        await assignments.save(conn, lease, plan, 1)
        await shards.finish(conn, lease, shards.Done())


async def dispatch(db: Database, lease: Lease) -> None:
    """Answer every job of a leased dispatch shard for a cent each."""
    calls = range(lease.first_job, lease.first_job + lease.job_count)
    async with db.transaction() as conn:
        await ledger.reserve(conn, lease, [reservation(n, "0.02") for n in calls])
    async with db.transaction() as conn:
        paid = [attempt(n, "0.01") for n in calls]
        await ledger.settle(conn, lease, paid)
        await results.save(conn, lease, [result(n) for n in calls])
        await shards.finish(conn, lease, shards.Done())


def predictions_of(lease: Lease, *, models: int = 2) -> Predictions:
    """Return predictions that tell jobs, models and fields apart."""
    jobs_first = np.arange(lease.first_job, lease.first_job + lease.job_count)
    grid = (jobs_first[:, None] / 1000 + np.arange(models)[None, :] / 10).astype(np.float32)
    return Predictions(
        quality=grid,
        quality_std=grid / 2,
        completion_tokens=grid * 100,
        novelty=grid[:, 0] / 4,
        truncated=jobs_first % 2 == 1,
    )


def reservation(job_no: int, usd: str, attempt_no: int = 1) -> Reservation:
    """Return a reservation for a call to the small model."""
    return Reservation(job_no, attempt_no, "small", Decimal(usd))


def attempt(job_no: int, usd: str, attempt_no: int = 1) -> Attempt:
    """Return a successful call to the small model."""
    usage = Usage(prompt_tokens=3, completion_tokens=4)
    return Attempt(job_no, attempt_no, "small", "succeeded", Decimal(usd), 0.25, usage, 200)


def result(job_no: int, answer: str = "here") -> Result:
    """Return a job's answer by the small model."""
    usage = Usage(prompt_tokens=3, completion_tokens=4)
    completion = Completion(answer, {"id": f"response-{job_no}"}, usage, 200, 0.25)
    return Result(job_no, ResultStatus.SUCCEEDED, Decimal("0.01"), 1, "small", completion)


async def _shard_count(db: Database, batch_id: UUID) -> int:
    async with db.transaction() as conn:
        return len(await shards.ready_keys(conn, batch_id))
