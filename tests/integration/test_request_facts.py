"""Facts of requests in the store: a selection by them is the one that reads the requests makes."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest

from routoo.domain.batch_options import Objective
from routoo.domain.job import SLA, Lease, ShardKey, Stage
from routoo.domain.pool import Pool, Tariff
from routoo.domain.prediction import Predictions
from routoo.domain.prompt import prompt_text
from routoo.errors import StaleLeaseError
from routoo.pipeline.request_facts import FORMAT
from routoo.pipeline.score import score_shard
from routoo.pipeline.select.matrix import load_matrix
from routoo.store import batches, jobs, ledger, predictions, request_facts, results, shards
from routoo.store.batches import control, plans, replans
from routoo.store.batches.plans import derive_plan
from routoo.store.batches.records import BatchRecord
from routoo.store.database import Database
from tests.batch_factory import attempt, pool_of, reservation, result
from tests.chaos.lone_worker import Guess
from tests.dispatch_factory import claim, rows, select

pytestmark = pytest.mark.anyio

JOBS, SHARD = 40, 8
_JOB_USD = Decimal("0.0003")
"""Budget a job: between what a call to the one model costs and one to the other."""
_FACTS = "SELECT count(*) FROM request_facts"


class Uneven(Guess):
    """Predicts otherwise for each prompt, by its length and place, and each model otherwise."""

    def predict(self, prompts: Sequence[str], models: Sequence[str]) -> Predictions:
        known = super().predict(prompts, models)
        ranks = np.array([sum(prompt.encode()) % 97 for prompt in prompts], np.float32)
        quality = 0.4 + ranks[:, None] / 200 + np.arange(len(models), dtype=np.float32) / 20
        return Predictions(
            quality, known.quality_std, known.completion_tokens, known.novelty, known.truncated
        )


def body(number: int) -> dict[str, Any]:
    """Return a request; some have parts, tools, a named model, or are like another one."""
    text = f"Question {number % 32}?"
    content: Any = text
    if number % 7 == 3:
        content = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "u"}}]
    more: dict[str, Any] = {}
    if number % 5 == 1:
        more = {"tools": [{"type": "function"}], "max_tokens": 30}
    if number % 11 == 4:
        more["model"] = "small"
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **more}


def sla(number: int) -> SLA:
    return (
        SLA(),
        SLA(min_quality=0.45),
        SLA(max_cost_usd=Decimal("0.0002")),
        SLA(denied_models=("large",)),
    )[number // 8 % 4]


async def submit(db: Database, count: int = JOBS, **options: Any) -> UUID:
    small, large = pool_of("small", "large").models
    dear = Tariff(prompt=Decimal(10), completion=Decimal(20))
    seeing = {"image_prompt_tokens": 50, "price_usd_per_mtok": dear}
    pool = Pool(models=(small, large.model_copy(update=seeing)))
    async with db.transaction() as conn:
        new = batches.NewBatch("test", pool, budget_usd=_JOB_USD * count, **options)
        batch_id, _ = await batches.create(conn, new)
        async with jobs.copy_jobs(conn, batch_id) as copy:
            await copy.write(
                [
                    jobs.JobInput(n, f"job-{n}", orjson.dumps(body(n)).decode(), sla(n))
                    for n in range(count)
                ]
            )
        await batches.seal(conn, batch_id, count, SHARD)
    return batch_id


async def record(db: Database, batch_id: UUID) -> BatchRecord:
    async with db.transaction() as conn:
        return await batches.get(conn, batch_id)


async def leased(db: Database, batch_id: UUID, shard_no: int) -> Lease:
    return await claim(db, ShardKey(batch_id, Stage.SCORE, shard_no))


async def finish(db: Database, lease: Lease) -> None:
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())


async def score(db: Database, batch_id: UUID, *, without: Sequence[int] = ()) -> None:
    """Score a batch; some shards by a worker of the version before facts were kept."""
    batch = await record(db, batch_id)
    for shard_no in range(-(-batch.job_count // SHARD)):
        lease = await leased(db, batch_id, shard_no)
        if shard_no in without:
            async with db.transaction() as conn:
                some = await jobs.load_slice(conn, batch_id, lease.first_job, lease.job_count)
                texts = [prompt_text(job.body) for job in some]
                await predictions.save_prompt_factors(conn, lease, [1.0, 1.0])
                await predictions.save(conn, lease, Uneven().predict(texts, ("small", "large")))
        else:
            await score_shard(db, Uneven(), lease, batch)
        await finish(db, lease)


async def chosen(db: Database, batch_id: UUID, revision: int) -> list[tuple[Any, ...]]:
    return await rows(
        db,
        "SELECT job_no, model, expected_quality, expected_cost_usd FROM assignments"
        " WHERE batch_id = %s AND revision = %s ORDER BY 1",
        batch_id,
        revision,
    )


async def selected_and_planned_again(db: Database, batch_id: UUID) -> list[Any]:
    """Select for a batch, end some of its jobs at little cost, and plan it again."""
    await select(db, batch_id)
    lease = await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))
    await end_some(db, lease)
    async with db.transaction() as conn:
        assert await replans.request(conn, batch_id, "a test asks for it")
    await select(db, batch_id)
    plan = dict((await record(db, batch_id)).plan or {})
    plan.pop("experience")
    ended = await rows(
        db, "SELECT job_no, error_message FROM results WHERE batch_id = %s ORDER BY 1", batch_id
    )
    revisions = [await chosen(db, batch_id, number) for number in (1, 2)]
    return [*revisions, plan, ended]


async def end_some(db: Database, lease: Lease) -> None:
    async with db.transaction() as conn:
        asked = [one.job.job_no for one in await jobs.pending(conn, lease)]
        await ledger.reserve(conn, lease, [reservation(n, "0.0001") for n in asked])
    async with db.transaction() as conn:
        await ledger.settle(conn, lease, [attempt(n, "0.000001") for n in asked])
        await results.save(conn, lease, [result(n) for n in asked])
        await shards.finish(conn, lease, shards.Done())


Damage = Callable[[Database, UUID], Any]


async def nothing(db: Database, batch_id: UUID) -> None:
    del db, batch_id


def changed(statement: str) -> Damage:
    async def change(db: Database, batch_id: UUID) -> None:
        async with db.transaction() as conn:
            done = await conn.execute(statement.encode(), [batch_id])
            assert done.rowcount > 0

    return change


@pytest.mark.parametrize(
    ("without", "damage"),
    [
        ((0, 1, 2, 3, 4), nothing),
        ((1, 3), nothing),
        ((), changed("DELETE FROM request_facts WHERE batch_id = %s AND first_job = 16")),
        ((), changed("UPDATE request_facts SET format = format + 1 WHERE batch_id = %s")),
        ((), changed("UPDATE request_facts SET columns = '' WHERE batch_id = %s")),
        ((), changed("UPDATE request_facts SET kinds = '[]' WHERE batch_id = %s")),
        ((2,), changed("UPDATE request_facts SET digests = '\\x00' WHERE batch_id = %s")),
    ],
    ids=["no facts", "old scorers among new", "gap", "newer format", "empty", "kinds", "digests"],
)
async def test_plans_and_re_plans_are_the_same_with_facts_and_without(
    db: Database, without: Sequence[int], damage: Damage
) -> None:
    whole, other = await submit(db), await submit(db)
    await score(db, whole)
    await score(db, other, without=without)
    await damage(db, other)
    expected = await selected_and_planned_again(db, whole)
    async with db.transaction() as conn:
        await conn.execute("DELETE FROM attempts")  # the other batch would learn from them
    found = await selected_and_planned_again(db, other)
    assert expected[1]  # the re-plan moved some jobs
    assert len({model for _, model, *_ in expected[0]}) == 2
    assert found == expected


async def test_requests_are_not_read_where_facts_are_kept(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await submit(db)
    await score(db, batch_id)
    read = []
    monkeypatch.setattr(jobs, "_job", read.append)
    batch = await record(db, batch_id)
    async with db.transaction() as conn:
        matrix = await load_matrix(conn, batch)
    assert matrix.duplicates is not None
    assert not read


async def test_facts_and_predictions_are_written_together_or_not_at_all(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = await submit(db, SHARD)
    lease, batch = await leased(db, batch_id, 0), await record(db, batch_id)

    async def die(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched, pytest.raises(ConnectionError):
        patched.setattr(predictions, "save", die)
        await score_shard(db, Uneven(), lease, batch)
    assert await rows(db, _FACTS) == [(0,)]
    await score_shard(db, Uneven(), lease, batch)
    await score_shard(db, Uneven(), lease, batch)  # once more, as after a crash before `finish`
    assert await rows(db, _FACTS) == [(1,)]
    await finish(db, lease)
    await select(db, batch_id)
    assert await chosen(db, batch_id, 1)


async def test_a_worker_that_was_presumed_dead_leaves_no_facts(db: Database) -> None:
    batch_id = await submit(db, SHARD)
    batch = await record(db, batch_id)
    stale = await claim(db, ShardKey(batch_id, Stage.SCORE, 0), lease_s=-1.0)
    await leased(db, batch_id, 0)
    with pytest.raises(StaleLeaseError):
        await score_shard(db, Uneven(), stale, batch)
    assert await rows(db, _FACTS) == [(0,)]


async def test_facts_go_with_their_batch(db: Database) -> None:
    ended, plan = await submit(db), await submit(db, plan_only=True)
    for batch_id in (ended, plan):
        await score(db, batch_id)
    await select(db, plan)
    async with db.transaction() as conn:
        await conn.execute("UPDATE batches SET status = 'completed' WHERE id = %s", [ended])
    while True:
        async with db.transaction() as conn:
            if await control.delete_part(conn, ended):
                break
    assert await rows(db, _FACTS) == [(5,)]
    async with db.transaction() as conn:
        await conn.execute("UPDATE batches SET created_at = now() - interval '1 year'")
        assert await plans.delete_expired(conn, 86400.0) == plan
    assert await rows(db, _FACTS) == [(0,)]


async def test_a_plan_made_of_another_has_its_facts(db: Database) -> None:
    first = await submit(db, plan_only=True)
    await score(db, first)
    await select(db, first)
    batch = await record(db, first)
    async with db.transaction() as conn:
        second = await derive_plan(conn, batch, batch.budget_usd, Objective(), SHARD)
        held = [
            await request_facts.load(conn, one, [0, 8, 16, 24, 32], digests=True)
            for one in (first, second)
        ]
        assert len(await request_facts.list_slices(conn, second, FORMAT)) == 5
    assert held[0] == held[1]
    await select(db, second)
    assert await chosen(db, second, 1) == await chosen(db, first, 1)
