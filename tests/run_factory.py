"""Evaluation runs in the store, taken through the stages without workers."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from uuid import UUID

from routoo.domain.completion import Attempt, Completion, Reservation, Result, Usage
from routoo.domain.items import Item
from routoo.domain.job import ResultStatus, Stage
from routoo.evaluation_runs.begin import RunRequest, begin_run
from routoo.evaluation_runs.finish import finish_due
from routoo.pipeline.select.shard import select_shard
from routoo.store import batches, jobs, ledger, predictions, results, shards
from routoo.store.database import Database
from routoo.store.evaluation import eval_runs, eval_sets
from routoo.store.evaluation.eval_sets import EvalSetRecord, Purpose
from tests.batch_factory import claim, pool_of, predictions_of

Answer = Callable[[str, str], str]
"""From a model and a prompt to what it says."""
SHARD = 100


def questions(count: int) -> list[Item]:
    """Return questions whose right answer is their number."""
    return [
        Item(f"q-{n}", f"Say {n}.", subject=f"field-{n % 2}", answer=str(n)) for n in range(count)
    ]


async def add_set(
    db: Database, items: Sequence[Item], purpose: Purpose = Purpose.EVALUATION
) -> EvalSetRecord:
    """Write the set `example`."""
    async with db.transaction() as conn:
        return (await eval_sets.add(conn, "example", items, purpose))[0]


async def begin(db: Database, eval_set: EvalSetRecord, **request: object) -> UUID:
    """Begin a run over the models `small` and `large`."""
    async with db.transaction() as conn:
        wanted = RunRequest(pool_of("small", "large"), **request)
        return await begin_run(conn, eval_set, wanted, shard_size=SHARD)


async def complete(db: Database, batch_id: UUID, answer: Answer) -> None:
    """Take a batch from its first stage to its end, each call a cent."""
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    models = len(batch.pool.models)
    async with db.transaction() as conn:
        ready = await shards.ready_keys(conn, batch_id)
    for key in ready:
        if key.stage is not Stage.SCORE:
            continue
        lease = await claim(db, batch_id, Stage.SCORE, key.shard_no)
        async with db.transaction() as conn:
            await predictions.save(conn, lease, predictions_of(lease, models=models))
            await shards.finish(conn, lease, shards.Done())
    lease = await claim(db, batch_id, Stage.SELECT)
    await select_shard(db, lease, batch)
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())
        ready = await shards.ready_keys(conn, batch_id)
    for key in ready:
        await _dispatch(db, batch_id, key.shard_no, answer)


async def _dispatch(db: Database, batch_id: UUID, shard_no: int, answer: Answer) -> None:
    lease = await claim(db, batch_id, Stage.DISPATCH, shard_no)
    async with db.transaction() as conn:
        pending = await jobs.pending(conn, lease)
        asked = [(one.job.job_no, one.model, one.job.body) for one in pending]
        await ledger.reserve(
            conn, lease, [Reservation(n, 1, model, Decimal("0.02")) for n, model, _ in asked]
        )
    usage, cost = Usage(prompt_tokens=3, completion_tokens=4), Decimal("0.01")
    async with db.transaction() as conn:
        calls = [Attempt(n, 1, model, "succeeded", cost, 0.25, usage, 200) for n, model, _ in asked]
        await ledger.settle(conn, lease, calls)
        said = [
            (n, model, answer(model, body["messages"][0]["content"])) for n, model, body in asked
        ]
        ended = [
            Result(
                n, ResultStatus.SUCCEEDED, cost, 1, model, Completion(text, {}, usage, 200, 0.25)
            )
            for n, model, text in said
        ]
        await results.save(conn, lease, ended)
        await shards.finish(conn, lease, shards.Done())


async def graded(
    db: Database, name: str, purpose: Purpose, items: list[Item], answer: Answer | None = None
) -> None:
    """Run a set with a sample of all its items; unless told, only the large model is right."""
    async with db.transaction() as conn:
        found, _ = await eval_sets.add(conn, name, items, purpose)
    run_id = await begin(db, found, sample_size=len(items))
    async with db.transaction() as conn:
        run = await eval_runs.get(conn, run_id)
    right = {item.prompt: item.answer or "" for item in items}
    assert run.sample_batch_id is not None

    def by_model(model: str, prompt: str) -> str:
        return right[prompt] if model == "large" else "x"

    for batch_id in (run.batch_id, run.sample_batch_id):
        await complete(db, batch_id, answer or by_model)
    assert await finish_due(db, shard_size=SHARD) == [run_id]
