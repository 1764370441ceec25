"""The score and select stages against a real database."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from routoo.domain.batch_options import Objective
from routoo.domain.job import SLA, Stage
from routoo.domain.prediction import Assignment, Predictions
from routoo.errors import InfeasibleError
from routoo.pipeline.score import score_shard
from routoo.pipeline.select.experience import batch_experience
from routoo.pipeline.select.shard import select_shard
from routoo.store import assignments, batches, jobs, ledger, predictions, results, shards
from routoo.store.database import Database
from tests import batch_factory

pytestmark = pytest.mark.anyio

JOBS = 6


@dataclass
class FixedPredictor:
    """The small model is right half of the time, the large one nearly always."""

    asked: list[Sequence[str]]
    factors: tuple[float, float] = (1.0, 1.0)

    def predict(self, prompts: Sequence[str], models: Sequence[str]) -> Predictions:
        self.asked.append(prompts)
        count = len(prompts)
        assert list(models) == ["small", "large"]
        return Predictions(
            quality=np.tile(np.array([0.5, 0.9], np.float32), (count, 1)),
            quality_std=np.zeros((count, 2), np.float32),
            completion_tokens=np.tile(np.array([10, 1000], np.float32), (count, 1)),
            novelty=np.zeros(count, np.float32),
            truncated=np.zeros(count, np.bool_),
        )

    def prompt_factors(self, models: Sequence[str]) -> Sequence[float]:
        assert list(models) == ["small", "large"]
        return self.factors

    def floor_margins(self, models: Sequence[str], confidence: float) -> Sequence[float]:
        assert (list(models), confidence) == (["small", "large"], 0.9)
        return [0.1, 0.6]


async def score(
    db: Database, batch_id: UUID, factors: tuple[float, float] = (1.0, 1.0)
) -> FixedPredictor:
    predictor = FixedPredictor([], factors)
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
        keys = await shards.ready_keys(conn, batch_id)
    for key in keys:
        lease = await batch_factory.claim(db, batch_id, Stage.SCORE, key.shard_no)
        await score_shard(db, predictor, lease, batch)
        async with db.transaction() as conn:
            await shards.finish(conn, lease, shards.Done())
    return predictor


async def select(db: Database, **options: Any) -> UUID:
    batch_id = await batch_factory.submit(db, JOBS, **options)
    await score(db, batch_id)
    lease = await batch_factory.claim(db, batch_id, Stage.SELECT)
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    await select_shard(db, lease, batch)
    return batch_id


async def rows(db: Database, sql: str, batch_id: UUID) -> list[tuple[Any, ...]]:
    async with db.transaction() as conn:
        cursor = await conn.execute(sql.encode(), [batch_id])
        return await cursor.fetchall()


async def chosen(db: Database, batch_id: UUID) -> list[str]:
    sql = "SELECT model FROM assignments WHERE batch_id = %s ORDER BY job_no"
    return [row[0] for row in await rows(db, sql, batch_id)]


async def refused(db: Database, batch_id: UUID) -> list[tuple[Any, ...]]:
    columns = "job_no, status, error_code, error_message"
    sql = f"SELECT {columns} FROM results WHERE batch_id = %s ORDER BY job_no"
    return await rows(db, sql, batch_id)


async def plan(db: Database, batch_id: UUID) -> dict[str, Any]:
    async with db.transaction() as conn:
        found = (await batches.get(conn, batch_id)).plan
    assert found is not None
    return found


async def test_scoring_predicts_every_prompt_of_every_shard(db: Database) -> None:
    batch_id = await batch_factory.submit(db, JOBS)
    predictor = await score(db, batch_id)
    assert [len(prompts) for prompts in predictor.asked] == [2, 2, 2]
    assert predictor.asked[0][0] == "Where\tis\nit?"
    async with db.transaction() as conn:
        loaded = await predictions.load_batch(conn, batch_id)
    assert loaded.quality.shape == (JOBS, 2)


async def test_without_a_budget_every_job_gets_its_best_model(db: Database) -> None:
    batch_id = await select(db)
    assert await chosen(db, batch_id) == ["large"] * JOBS
    assert await refused(db, batch_id) == []


async def test_a_budget_splits_the_batch_and_is_kept_in_expectation(db: Database) -> None:
    batch_id = await select(db, budget_usd="0.005")
    models = await chosen(db, batch_id)
    assert sorted(set(models)) == ["large", "small"]
    found = await plan(db, batch_id)
    assert found["expected_cost_usd"] <= 0.005
    assert found["served"] == JOBS
    assert found["shadow_price_per_usd"] > 0


async def test_the_plan_says_what_each_model_alone_would_bring(db: Database) -> None:
    found = await plan(db, await select(db))
    small, large = found["models"]
    assert (small["model"], small["jobs"], small["share"]) == ("small", 0, 0.0)
    assert (large["model"], large["jobs"], large["share"]) == ("large", JOBS, 1.0)
    assert small["alone_quality"] == pytest.approx(0.5)
    assert found["expected_quality"] == pytest.approx(large["alone_quality"])
    assert found["expected_cost_usd"] == pytest.approx(large["alone_cost_usd"])


async def test_a_job_that_no_model_may_answer_fails_with_the_reason(db: Database) -> None:
    slas = [SLA(min_quality=0.95), SLA(max_cost_usd=Decimal("0.000001")), *[SLA()] * (JOBS - 2)]
    batch_id = await select(db, slas=slas)
    first, second = await refused(db, batch_id)
    assert first[:3] == (0, "failed", "no_eligible_model")
    assert "min_quality is 0.95, the best predicted is 0.900" in first[3]
    assert second[:3] == (1, "failed", "no_eligible_model")
    assert "exceeds max_cost_usd 0.000001" in second[3]
    assert len(await chosen(db, batch_id)) == JOBS - 2


async def test_jobs_that_the_budget_can_not_pay_for_end_as_budget_exhausted(db: Database) -> None:
    batch_id = await select(db, budget_usd="0.0004")
    served = await chosen(db, batch_id)
    left = await refused(db, batch_id)
    assert served
    assert set(served) == {"small"}
    assert len(served) + len(left) == JOBS
    assert {row[1:3] for row in left} == {("budget_exhausted", "budget_exhausted")}


async def test_a_budget_below_what_one_call_reserves_serves_nobody(db: Database) -> None:
    batch_id = await select(db, budget_usd="0.0001")  # one call costs less, and reserves more
    assert await chosen(db, batch_id) == []
    assert {row[1] for row in await refused(db, batch_id)} == {"budget_exhausted"}


async def test_selecting_again_after_a_crash_changes_nothing(db: Database) -> None:
    batch_id = await select(db, budget_usd="0.005")
    before = await chosen(db, batch_id), await plan(db, batch_id)
    async with db.transaction() as conn:
        await conn.execute("UPDATE shards SET lease_expires_at = now() WHERE stage = 'select'")
    lease = await batch_factory.claim(db, batch_id, Stage.SELECT)
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    await select_shard(db, lease, batch)
    assert (await chosen(db, batch_id), await plan(db, batch_id)) == before


async def test_assignments_that_are_there_stay(db: Database) -> None:
    batch_id = await batch_factory.submit(db, JOBS)
    await batch_factory.score(db, batch_id)
    lease = await batch_factory.claim(db, batch_id, Stage.SELECT)
    plans = [
        (1, range(4), "small"),
        (1, range(2, 6), "large"),  # the same revision once more: two of its jobs are there
        (2, range(1), "large"),
        (2, range(2), "small"),
    ]
    for revision, numbers, model in plans:
        some = [Assignment(number, model, 0.5, Decimal("0.01")) for number in numbers]
        async with db.transaction() as conn:
            await assignments.save(conn, lease, some, revision)
    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT revision, string_agg(left(model, 1), '' ORDER BY job_no) FROM assignments"
            " GROUP BY 1 ORDER BY 1"
        )
        assert await cursor.fetchall() == [(1, "ssssll"), (2, "ls")]
        held = await assignments.load_open_jobs(conn, batch_id, JOBS, ("small", "large"))
    assert held.column.tolist() == [1, 0, 0, 0, 1, 1]


async def test_open_jobs_are_told_from_those_that_ended_and_those_that_are_called(
    db: Database,
) -> None:
    batch_id = await batch_factory.submit(db, 8, shard_size=8)
    await batch_factory.score(db, batch_id)
    lease = await batch_factory.claim(db, batch_id, Stage.SELECT)
    async with db.transaction() as conn:
        cost_usd = Decimal("0.01")
        first = [Assignment(number, "large", 0.5, cost_usd) for number in range(7)]
        await assignments.save(conn, lease, first, 1)
        moved = [Assignment(6, "small", 0.5, cost_usd * 2, probe=True, escalation_chance=0.5)]
        await assignments.save(conn, lease, moved, 2)
        await assignments.save_duplicates(conn, lease, [(1, 0)])
        await shards.finish(conn, lease, shards.Done())
    lease = await batch_factory.claim(db, batch_id, Stage.DISPATCH)
    async with db.transaction() as conn:
        called = [batch_factory.reservation(number, "0.02") for number in (0, 2, 3)]
        await ledger.reserve(conn, lease, [*called, batch_factory.reservation(3, "0.02", 2)])
    async with db.transaction() as conn:
        settled = [batch_factory.attempt(number, "0.01") for number in (0, 3)]
        await ledger.settle(conn, lease, [*settled, batch_factory.attempt(3, "0.01", 2)])
        await results.save(conn, lease, [batch_factory.result(0)])
        await conn.execute(
            "INSERT INTO kept_answers (batch_id, job_no, attempt_no, answer, response)"
            " VALUES (%s, 4, 1, 'perhaps', '{}')",
            [batch_id],
        )
    async with db.transaction() as conn:
        found = await assignments.load_open_jobs(conn, batch_id, 8, ("small", "large"))
    # Job 0 has ended and job 1 shares its answer; 2 is under way, 4 waits for a judgement; 3 is to
    # be called again; 7 has no model.
    assert found.job_no.tolist() == [2, 3, 4, 5, 6, 7]
    assert found.called.tolist() == [True, False, True, False, False, False]
    assert found.column.tolist() == [1, 1, 1, 1, 0, -1]
    assert found.probe.tolist() == [False, False, False, False, True, False]
    assert found.expected_cost_usd.tolist() == [0.01, 0.01, 0.01, 0.01, 0.02, 0.0]


async def test_a_mean_quality_is_reached_at_the_least_cost(db: Database) -> None:
    batch_id = await select(db, objective=Objective(min_mean_quality=0.75))
    models = await chosen(db, batch_id)
    assert sorted(models) == ["large"] * 4 + ["small"] * 2
    assert (await plan(db, batch_id))["expected_quality"] == pytest.approx(4.6 / 6)


async def test_a_model_is_matched_at_a_share_of_its_quality(db: Database) -> None:
    found = await plan(
        db, await select(db, objective=Objective(match_model="large", match_ratio=0.9))
    )
    assert found["expected_quality"] >= 0.9 * 0.9
    assert found["models"][0]["jobs"] == 1


async def test_a_gain_dearer_than_it_is_worth_is_left_out(db: Database) -> None:
    # The large model's 0.4 more quality cost 0.00198 USD more: 0.00495 USD a good answer.
    for worth_usd, model in ((0.004, "small"), (0.006, "large")):
        batch_id = await select(db, objective=Objective(willingness_to_pay_usd=worth_usd))
        assert await chosen(db, batch_id) == [model] * JOBS


async def test_a_mean_quality_out_of_reach_fails_the_batch_before_any_call(db: Database) -> None:
    with pytest.raises(InfeasibleError, match=r"Lower the target by 0\.05"):
        await select(db, objective=Objective(min_mean_quality=0.95))
    with pytest.raises(InfeasibleError, match="Raise the budget by"):
        await select(db, budget_usd="0.001", objective=Objective(min_mean_quality=0.8))


async def test_jobs_keep_their_lists_of_models_through_the_store(db: Database) -> None:
    slas = [SLA(denied_models=("large",)), SLA(allowed_models=("small", 'a"b\\,\n{')), *[SLA()] * 4]
    batch_id = await select(db, slas=slas)
    assert await chosen(db, batch_id) == ["small"] * 2 + ["large"] * 4
    async with db.transaction() as conn:
        assert [job.sla for job in await jobs.load_slice(conn, batch_id, 0, JOBS)] == slas


async def test_a_floor_with_confidence_is_compared_less_the_checkpoints_margin(
    db: Database,
) -> None:
    sure = Objective(floor_confidence=0.9)
    slas = [SLA(min_quality=0.35)] * (JOBS - 1) + [SLA(min_quality=0.5)]
    batch_id = await select(db, slas=slas, objective=sure)
    assert await chosen(db, batch_id) == ["small"] * (JOBS - 1)
    (refusal,) = await refused(db, batch_id)
    assert "min_quality is 0.5, the best predicted is 0.400" in refusal[3]
    assert (await plan(db, batch_id))["experience"]["large"]["quality_margin"] == pytest.approx(0.6)


async def test_a_first_plan_counts_on_the_prompt_tokens_that_the_checkpoint_knows(
    db: Database,
) -> None:
    costs = []
    for factors in ((1.0, 1.0), (0.25, 0.25)):
        batch_id = await batch_factory.submit(db, JOBS)
        await score(db, batch_id, factors)
        lease = await batch_factory.claim(db, batch_id, Stage.SELECT)
        async with db.transaction() as conn:
            batch = await batches.get(conn, batch_id)
            known = await batch_experience(conn, batch)
        assert [known[name].prompt_factor for name in ("small", "large")] == list(factors)
        await select_shard(db, lease, batch)
        sql = "SELECT sum(expected_cost_usd) FROM assignments WHERE batch_id = %s"
        costs += [row[0] for row in await rows(db, sql, batch_id)]
    assert costs[1] < costs[0]
