"""Calls of earlier batches teach the selection of later ones."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from routoo.domain.job import SLA, Stage
from routoo.domain.pool import Pool
from routoo.pipeline.select.experience import load_experience
from routoo.pipeline.select.shard import select_shard
from routoo.store import batches
from routoo.store.database import Database
from tests import batch_factory

pytestmark = pytest.mark.anyio

JOBS = 30


async def run_batch(db: Database) -> None:
    """Answer a batch: each call took 0.25 s, 3 prompt tokens and 4 completion tokens."""
    batch_id = await batch_factory.submit(db, JOBS, shard_size=JOBS)
    await batch_factory.score(db, batch_id)
    await batch_factory.select(db, batch_id)
    await batch_factory.dispatch(db, await batch_factory.claim(db, batch_id, Stage.DISPATCH))


async def select(db: Database, batch_id: UUID) -> dict[str, Any]:
    """Score and select a batch; return its plan."""
    await batch_factory.score(db, batch_id)
    lease = await batch_factory.claim(db, batch_id, Stage.SELECT)
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    await select_shard(db, lease, batch)
    async with db.transaction() as conn:
        plan = (await batches.get(conn, batch_id)).plan
    assert plan is not None
    return plan


async def test_calls_teach_tokens_and_latency_of_their_model_at_its_endpoint(db: Database) -> None:
    await run_batch(db)
    pool = batch_factory.pool_of("small", "large")
    moved = pool.models[0].endpoint.model_copy(update={"base_url": "http://elsewhere/v1"})
    elsewhere = Pool(models=(pool.models[0].model_copy(update={"endpoint": moved}),))
    async with db.transaction() as conn:
        known = await load_experience(conn, pool)
        unknown = await load_experience(conn, elsewhere)
    assert known["small"].calls == JOBS
    assert known["small"].prompt_factor < 1
    assert known["small"].completion_factor > 1
    assert known["small"].base_s == pytest.approx(0.25)
    assert known["small"].latency_p95_s == pytest.approx(0.25)
    assert (known["large"].calls, unknown["small"].calls) == (0, 0)


async def test_a_new_checkpoint_ends_the_correction_of_what_the_last_one_predicted(
    db: Database,
) -> None:
    await run_batch(db)
    pool, before = batch_factory.pool_of("small"), datetime.now(UTC)
    async with db.transaction() as conn:
        await conn.execute("""
            WITH c AS (
                INSERT INTO checkpoints (id, path, weights_sha256, manifest)
                VALUES (gen_random_uuid(), '/new', 'abc', '{}') RETURNING id
            )
            INSERT INTO checkpoint_promotions (checkpoint_id, reason) SELECT id, 'better' FROM c
        """)
    async with db.transaction() as conn:
        under_way = (await load_experience(conn, pool, at=before))["small"]
        later = (await load_experience(conn, pool))["small"]
    assert under_way.completion_factor > 1 == later.completion_factor
    assert (later.calls, later.base_s) == (under_way.calls, under_way.base_s)
    assert later.prompt_factor == under_way.prompt_factor


async def test_a_plan_is_made_with_what_was_learned_and_keeps_it(db: Database) -> None:
    before = await select(db, await batch_factory.submit(db, JOBS, shard_size=JOBS))
    await run_batch(db)
    after = await select(db, await batch_factory.submit(db, JOBS, shard_size=JOBS))
    assert before["experience"]["small"]["calls"] == 0
    assert after["experience"]["small"]["calls"] == JOBS
    cost = [plan["models"][0]["alone_cost_usd"] for plan in (before, after)]
    assert cost[1] < cost[0]


async def test_a_model_expected_to_be_too_slow_is_not_asked(db: Database) -> None:
    await run_batch(db)
    slas = [SLA(max_latency_s=0.1)] * JOBS
    plan = await select(db, await batch_factory.submit(db, JOBS, shard_size=JOBS, slas=slas))
    small, large = plan["models"]
    assert (small["jobs"], large["jobs"]) == (0, JOBS)


async def test_a_deadline_makes_capacities_and_their_prices_part_of_the_plan(db: Database) -> None:
    await run_batch(db)
    batch_id = await batch_factory.submit(db, JOBS, shard_size=JOBS)
    soon = datetime.now(UTC) + timedelta(seconds=60)
    async with db.transaction() as conn:
        await conn.execute("UPDATE batches SET deadline = %s WHERE id = %s", [soon, batch_id])
        await conn.execute("""
            UPDATE batches SET pool = jsonb_set(
                pool, '{models,1,endpoint,requests_per_minute}', '10')
        """)
    plan = await select(db, batch_id)
    small, large = plan["models"]
    assert 0 < large["jobs"] <= 9
    assert small["jobs"] + large["jobs"] == JOBS
    prices = plan["shadow_prices"]
    assert {name.split(": ")[1] for name in prices} == {"requests", "seconds in flight"}
    (price,) = [price for name, price in prices.items() if name.endswith("large: requests")]
    assert price > 0
