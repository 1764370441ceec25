"""Begins an evaluation run: writes its batches and its row.

A run has a batch whose jobs are routed, and, if it samples, a second one in which every candidate
model answers a sample of the items. They are two batches so that the sample's cost has no influence
on the router's decisions.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import orjson
from psycopg import AsyncConnection

from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.items import Item
from routoo.domain.pool import Pool
from routoo.errors import InputError
from routoo.evaluation.collect import RequestForm
from routoo.evaluation.evaluation_run import RunMode
from routoo.evaluation.graders.grade import ITEM_KEY
from routoo.store import batches, checkpoints
from routoo.store.evaluation import eval_runs, eval_sets
from routoo.store.evaluation.eval_sets import EvalSetRecord
from routoo.store.jobs import JobInput, copy_jobs

_BATCH_KIND = "evaluation"
_JOBS_PER_WRITE = 1000


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a user asks of a run; an amount of None is no limit."""

    pool: Pool
    name: str | None = None
    """Name of its batches; None takes the evaluation set's."""
    budget_usd: Decimal | None = None
    """Most that the routed jobs may cost together."""
    objective: Objective = field(default_factory=Objective)
    """What the routed jobs aim at."""
    call_options: CallOptions = field(default_factory=CallOptions)
    """How their calls are made."""
    sample_size: int = 0
    """Number of items that every candidate answers; 0 for a run that is only routed."""
    sample_budget_usd: Decimal | None = None
    """Most that the sample's answers may cost together."""
    recorded: bool = False
    """Whether the pool's endpoints replay recorded outcomes."""
    judge: dict[str, Any] | None = None
    """Candidate model that judges (`model`) and the most its calls may cost (`budget_usd`)."""
    schedule_id: UUID | None = None


async def begin_run(
    conn: AsyncConnection, eval_set: EvalSetRecord, request: RunRequest, *, shard_size: int
) -> UUID:
    """Write a run and its batches, in the transaction that decided on it.

    Args:
        conn: A transaction; workers see the run when it commits.
        eval_set: The version to run.
        request: What the user asks of the run.
        shard_size: Maximum number of jobs in a shard.

    Returns:
        The run's id.

    Raises:
        InputError: The sample has no budget of its own while the run has one.
    """
    check_budgets(request)
    items = await eval_sets.load_items(conn, eval_set.id)
    sample = choose_sample(items, request.sample_size)
    name = request.name or eval_set.name
    rows = [(item.item_id, _body(item, request)) for item in items]
    batch_id = await write_batch(conn, _routed(name, request), rows, shard_size)
    sampled = [items[number] for number in sample]
    sample_batch_id = await _write_sample(conn, sampled, request, name, shard_size)
    run_id = uuid4()
    row = _run_row(request, sample) | {
        "id": run_id,
        "eval_set_id": eval_set.id,
        "batch_id": batch_id,
        "sample_batch_id": sample_batch_id,
        "checkpoint_sha256": await _promoted_sha256(conn),
    }
    await eval_runs.insert(conn, row)
    return run_id


def _run_row(request: RunRequest, sample: Sequence[int]) -> dict[str, Any]:
    """Return the columns of a new run that its request decides."""
    return {
        "schedule_id": request.schedule_id,
        "mode": (RunMode.FULL if sample else RunMode.ROUTED).value,
        "recorded": request.recorded,
        "sample_items": sample,
        "judge": request.judge,
    }


async def _promoted_sha256(conn: AsyncConnection) -> str | None:
    promoted = await checkpoints.promoted(conn)
    return None if promoted is None else promoted.weights_sha256


async def _write_sample(
    conn: AsyncConnection, items: Sequence[Item], request: RunRequest, name: str, shard_size: int
) -> UUID | None:
    """Write the batch in which every candidate answers the sample; None where there is none."""
    if not items:
        return None
    budget_usd = request.sample_budget_usd
    new = batches.NewBatch(f"{name} (sample)", request.pool, _BATCH_KIND, budget_usd=budget_usd)
    return await write_batch(conn, new, list(_sample_rows(items, request)), shard_size)


def _routed(name: str, request: RunRequest) -> batches.NewBatch:
    """Return the batch whose calls go where the routing sends them."""
    return batches.NewBatch(
        name,
        request.pool,
        _BATCH_KIND,
        budget_usd=request.budget_usd,
        objective=request.objective,
        call_options=request.call_options,
    )


async def write_batch(
    conn: AsyncConnection,
    new: batches.NewBatch,
    rows: Sequence[tuple[str, dict[str, Any]]],
    shard_size: int,
) -> UUID:
    """Write a batch of jobs that need no validation, and return its id.

    Args:
        conn: A transaction; workers see the batch when it commits.
        new: The batch's name, pool and limits.
        rows: The custom_id and the request of each job.
        shard_size: Maximum number of jobs in a shard.
    """
    batch_id, _ = await batches.create(conn, new)
    async with copy_jobs(conn, batch_id) as copy:
        for start in range(0, len(rows), _JOBS_PER_WRITE):
            part = enumerate(rows[start : start + _JOBS_PER_WRITE], start)
            await copy.write([_job(number, *row) for number, row in part])
    await batches.seal(conn, batch_id, len(rows), shard_size)
    return batch_id


def _job(number: int, custom_id: str, body: dict[str, Any]) -> JobInput:
    return JobInput(number, custom_id, orjson.dumps(body).decode())


def check_budgets(request: RunRequest) -> None:
    """Refuse a sample without a budget of its own in a run that has a budget.

    Raises:
        InputError: The run has a budget and its sample has none.
    """
    if request.sample_size and request.budget_usd is not None and request.sample_budget_usd is None:
        raise InputError(
            "the run has a budget and its sample has none",
            where="--sample-budget-usd",
            remedy="Say what the answers of every candidate may cost",
        )


def choose_sample(items: Sequence[Item], size: int) -> list[int]:
    """Return the positions of the sampled items, ascending: the same ones in every run of a set."""

    def rank(number: int) -> bytes:
        return hashlib.sha256(items[number].item_id.encode()).digest()

    return sorted(sorted(range(len(items)), key=rank)[:size])


def _body(item: Item, request: RunRequest) -> dict[str, Any]:
    body = RequestForm().body(item)
    return body | {"metadata": {ITEM_KEY: item.item_id}} if request.recorded else body


def _sample_rows(
    items: Sequence[Item], request: RunRequest
) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in items:
        body = _body(item, request)
        for model in request.pool.names:
            yield f"{item.item_id}@{model}", body | {"model": model}
