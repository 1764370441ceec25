"""Begins an evaluation run: a batch that is routed, and one that asks every candidate a sample."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection

from routoo.domain.batch_options import Objective
from routoo.domain.items import Item
from routoo.domain.pool import Pool
from routoo.errors import InputError
from routoo.evaluation.collect import RequestForm
from routoo.evaluation.evaluation_run import RunMode
from routoo.evaluation.graders.recorded import ITEM_KEY
from routoo.evaluation_runs.write import write_batch
from routoo.store import batches, checkpoints
from routoo.store.evaluation import eval_runs, eval_sets
from routoo.store.evaluation.eval_sets import EvalSetRecord

KIND = "evaluation"
"""Kind of the batches of a run."""


@dataclass(frozen=True, slots=True)
class RunOrder:
    """What is asked of a run; None means no limit."""

    pool: Pool
    name: str | None = None
    """What its batches are called; after the evaluation set where unset."""
    budget_usd: Decimal | None = None
    """Most that the routed jobs may cost together."""
    objective: Objective = field(default_factory=Objective)
    """What the routed jobs aim at."""
    sample_size: int = 0
    """Items that every candidate answers, 0 for a run that is routed only."""
    sample_budget_usd: Decimal | None = None
    """Most that the sample's answers may cost together."""
    recorded: bool = False
    """Whether the pool's endpoints replay recorded outcomes."""
    judge: dict[str, Any] | None = None
    """Candidate model that judges (`model`) and the most its calls may cost (`budget_usd`)."""
    schedule_id: UUID | None = None


async def begin_run(
    conn: AsyncConnection, eval_set: EvalSetRecord, order: RunOrder, *, shard_size: int
) -> UUID:
    """Write a run and its batches, in the transaction that decided on it.

    The routed jobs and the sample are two batches, so that what the sample costs changes nothing in
    the router's decisions.

    Args:
        conn: A transaction; workers see the run when it commits.
        eval_set: The version to run.
        order: What is asked.
        shard_size: Most jobs in a shard.

    Returns:
        The run's id.

    Raises:
        InputError: The sample has no budget of its own while the run has one.
    """
    check_order(order)
    items = await eval_sets.load_items(conn, eval_set.id)
    sample = choose_sample(items, order.sample_size)
    name = order.name or eval_set.name
    routed = await write_batch(
        conn,
        batches.NewBatch(
            name, order.pool, KIND, budget_usd=order.budget_usd, objective=order.objective
        ),
        [(item.item_id, _body(item, order)) for item in items],
        shard_size,
    )
    asked = await _ask_sample(conn, [items[number] for number in sample], order, name, shard_size)
    promoted = await checkpoints.promoted(conn)
    run_id = uuid4()
    await eval_runs.insert(
        conn,
        {
            "id": run_id,
            "eval_set_id": eval_set.id,
            "schedule_id": order.schedule_id,
            "batch_id": routed,
            "sample_batch_id": asked,
            "mode": (RunMode.FULL if sample else RunMode.ROUTED).value,
            "recorded": order.recorded,
            "sample_items": sample,
            "judge": order.judge,
            "checkpoint_sha256": None if promoted is None else promoted.weights_sha256,
        },
    )
    return run_id


async def _ask_sample(
    conn: AsyncConnection, items: Sequence[Item], order: RunOrder, name: str, shard_size: int
) -> UUID | None:
    """Write the batch in which every candidate answers the sample; None where there is none."""
    if not items:
        return None
    budget_usd = order.sample_budget_usd
    new = batches.NewBatch(f"{name} (sample)", order.pool, KIND, budget_usd=budget_usd)
    return await write_batch(conn, new, list(_sample_rows(items, order)), shard_size)


def check_order(order: RunOrder) -> None:
    """Refuse a sample that could be spent on without an end while the run has a budget.

    Raises:
        InputError: The budgets don't fit.
    """
    if order.sample_size and order.budget_usd is not None and order.sample_budget_usd is None:
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


def _body(item: Item, order: RunOrder) -> dict[str, Any]:
    body = RequestForm().body(item)
    return body | {"metadata": {ITEM_KEY: item.item_id}} if order.recorded else body


def _sample_rows(items: Sequence[Item], order: RunOrder) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in items:
        body = _body(item, order)
        for model in order.pool.names:
            yield f"{item.item_id}@{model}", body | {"model": model}
