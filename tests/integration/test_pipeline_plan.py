"""A plan's forecast, and the explanation of its jobs, against a real database."""

from dataclasses import replace
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from producer.rows.source import Source
from producer.screen.plan import plan_view
from producer.submit import BatchRequest, submit
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import SLA, BatchStatus, Stage
from routoo.errors import InfeasibleError, InputError, NotFoundError
from routoo.pipeline import explanation
from routoo.pipeline.explanation import JobExplanation, explain_job
from routoo.pipeline.select.shard import select_shard
from routoo.store import batches, jobs, shards
from routoo.store.batches import BatchRecord, plans, replans
from routoo.store.batches.plans import derive_plan
from routoo.store.batches.progress import progress
from routoo.store.database import Database
from tests import batch_factory as factory

pytestmark = pytest.mark.anyio

JOBS = 6


async def planned(db: Database, **options: Any) -> BatchRecord:
    """Plan a batch; the large model is better by 0.1 and its answers are longer."""
    batch_id = await factory.submit(db, JOBS, plan_only=True, **options)
    await factory.score(db, batch_id)
    return await selected(db, batch_id)


async def selected(db: Database, batch_id: UUID) -> BatchRecord:
    lease = await factory.claim(db, batch_id, Stage.SELECT)
    await select_shard(db, lease, await found(db, batch_id))
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())
    return await found(db, batch_id)


async def found(db: Database, batch_id: UUID) -> BatchRecord:
    async with db.transaction() as conn:
        return await batches.get(conn, batch_id)


async def explained(db: Database, batch: BatchRecord, custom_id: str) -> JobExplanation:
    async with db.transaction() as conn:
        return await explain_job(conn, batch, custom_id)


async def test_a_plan_is_forecast_before_any_money_is_spent(db: Database) -> None:
    batch = await planned(db, budget_usd="0.0008")
    assert batch.status is BatchStatus.PLANNED
    assert batch.plan is not None
    forecast = batch.plan["forecast"]
    low, high = forecast["quality_interval"]
    assert low < batch.plan["expected_quality"] < high
    assert batch.plan["expected_cost_usd"] <= forecast["worst_case_usd"] == 0.0008
    assert forecast["finish"] is None  # nobody declared a latency, and no call was made
    costs = [point["cost_usd"] for point in forecast["frontier"]]
    means = [point["mean_quality"] for point in forecast["frontier"]]
    assert (costs, means) == (sorted(costs), sorted(means))
    assert costs[0] <= batch.plan["expected_cost_usd"] * (1 + 1e-9)
    best = batch.plan["best_single"]
    assert best["expected_cost_usd"] <= batch.plan["expected_cost_usd"] * (1 + 1e-9)
    screen = Console(file=StringIO(), width=200)
    screen.print(plan_view(batch, batch.plan))
    assert f"only {best['model']}, best at this cost" in screen.file.getvalue()


async def test_caution_counts_quality_lower_and_says_so(db: Database) -> None:
    plan = (await planned(db, objective=Objective(risk=1.0))).plan
    assert plan is not None
    # The factory's estimates are off by half of themselves.
    assert plan["forecast"]["cautious_quality"] == pytest.approx(plan["expected_quality"] / 2)


async def test_a_plan_that_can_not_be_met_says_what_to_relax_and_never_runs(db: Database) -> None:
    batch = await planned(db, objective=Objective(min_mean_quality=0.9))
    assert batch.status is BatchStatus.PLANNED
    assert batch.plan is not None
    assert batch.plan["status"] == "infeasible"
    assert "Lower the target by" in batch.plan["advice"]
    screen = Console(file=StringIO(), width=200)
    screen.print(plan_view(batch, batch.plan))
    shown = screen.file.getvalue()
    assert "only large" in shown
    assert "random mix, same cost" not in shown
    assert "this plan" not in shown
    with pytest.raises(InfeasibleError, match="Lower the target by"):
        async with db.transaction() as conn:
            await plans.submit_plan(conn, batch.id)


async def test_a_job_is_explained_with_its_runner_up_and_what_would_change_it(
    db: Database,
) -> None:
    slas = [SLA(), SLA(denied_models=("large",)), *[SLA()] * (JOBS - 2)]
    batch = await planned(db, slas=slas)
    small, large = (await explained(db, batch, "job-0")).explanation.candidates
    assert (small.standing, large.standing) == ("runner-up", "chosen")
    second = await explained(db, batch, "job-1")
    assert second.explanation.candidates[1].reasons == ("not among the models the job may use",)
    assert [decision.model for decision in second.history.decisions] == ["small"]
    less = (await explained(db, batch, "job-5")).explanation.with_less_money
    assert less is not None
    assert less.model == "small"
    assert 0 < less.budget_usd < float((batch.plan or {})["expected_cost_usd"])


async def test_a_replan_keeps_the_mean_of_the_whole_batch_and_not_of_what_is_left(
    db: Database,
) -> None:
    batch = await planned(db, objective=Objective(min_mean_quality=0.05))
    assert await models_of(db, batch) == ["large"] * 3 + ["small"] * 3  # least dear gains first
    async with db.transaction() as conn:
        await plans.submit_plan(conn, batch.id)
    await factory.dispatch(db, await factory.claim(db, batch.id, Stage.DISPATCH))  # two large ones
    async with db.transaction() as conn:
        assert await replans.request(conn, batch.id, "a test wants it")
    lease = await factory.claim(db, batch.id, Stage.SELECT)
    await select_shard(db, lease, await found(db, batch.id))
    assert await models_of(db, batch) == ["large"] * 3 + ["small"] * 3


async def models_of(db: Database, batch: BatchRecord) -> list[str]:
    explanations = [await explained(db, batch, f"job-{number}") for number in range(JOBS)]
    return [one.history.decisions[-1].model for one in explanations]


async def test_an_explanation_includes_what_happened(db: Database) -> None:
    batch = await planned(db)
    async with db.transaction() as conn:
        await plans.submit_plan(conn, batch.id)
    await factory.dispatch(db, await factory.claim(db, batch.id, Stage.DISPATCH))
    history = (await explained(db, batch, "job-0")).history
    assert [(call.attempt_no, call.status) for call in history.calls] == [(1, "succeeded")]
    assert history.ending is not None
    assert (history.ending.status, history.ending.cost_usd) == ("succeeded", Decimal("0.01"))


async def test_identical_jobs_are_forecast_and_explained_by_their_one_call(db: Database) -> None:
    alone = await planned(db)
    shared = await planned(db, call_options=CallOptions(dedupe=True))
    worst_usd = [(one.plan or {})["forecast"]["worst_case_usd"] for one in (alone, shared)]
    # Limits follow the predicted lengths, which differ a little from row to row.
    assert worst_usd[0] == pytest.approx(JOBS * worst_usd[1], rel=0.01)
    first, last = [await explained(db, shared, f"job-{number}") for number in (0, JOBS - 1)]
    assert (first.serves, last.serves) == (JOBS, JOBS)
    assert first.explanation == last.explanation
    assert (await explained(db, alone, "job-0")).serves == 1


async def test_a_large_batch_is_explained_by_a_part_of_its_jobs(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [await planned(db), await planned(db, call_options=CallOptions(dedupe=True))]
    whole = [await explained(db, batch, "job-5") for batch in asked]
    monkeypatch.setattr(explanation, "_MOST_JOBS", 3)
    part = [await explained(db, batch, "job-5") for batch in asked]
    for all_jobs, some in zip(whole, part, strict=True):
        assert some.explanation.candidates == all_jobs.explanation.candidates
        assert (some.quality, some.serves) == (all_jobs.quality, all_jobs.serves)
    exact, estimated = (one[0].explanation.with_less_money for one in (whole, part))
    assert exact is not None
    assert estimated is not None
    assert estimated.budget_usd == pytest.approx(exact.budget_usd, rel=0.5)


async def test_what_can_not_be_explained_is_refused_with_the_reason(db: Database) -> None:
    batch = await planned(db)
    with pytest.raises(NotFoundError, match="no such job"):
        await explained(db, batch, "job-99")
    unplanned = await found(db, await factory.submit(db))
    with pytest.raises(InputError, match="no plan yet"):
        await explained(db, unplanned, "job-0")


async def test_a_plan_is_made_from_another_without_scoring_again(db: Database) -> None:
    slas = [SLA(max_cost_usd=Decimal("0.5"), denied_models=("large",)), *[SLA()] * (JOBS - 1)]
    first = await planned(db, slas=slas, budget_usd="1", key="monday")
    aim = Objective(willingness_to_pay_usd=1e-9)
    async with db.transaction() as conn:
        second_id = await derive_plan(
            conn, first, Decimal("0.5"), aim, shard_size=2, call_options=CallOptions(cascade=False)
        )
    second = await selected(db, second_id)
    assert second.call_options == CallOptions(cascade=False)
    assert (second.status, second.budget_usd, second.objective) == ("planned", Decimal("0.5"), aim)
    assert (second.pool, second.name, second.idempotency_key) == (first.pool, first.name, None)
    assert await found(db, first.id) == first
    async with db.transaction() as conn:
        copies = [await jobs.load_slice(conn, one.id, 0, JOBS) for one in (first, second)]
        assert (await progress(conn, second_id)).balance.limit_usd == Decimal("0.5")
    assert copies[0] == copies[1]
    plans = [[model["jobs"] for model in (one.plan or {})["models"]] for one in (first, second)]
    assert plans == [[1, JOBS - 1], [JOBS, 0]]  # all that is worth its price, and nothing is


async def test_a_plan_from_another_keeps_how_sure_its_floors_are(db: Database) -> None:
    aim = Objective(floor_confidence=0.9)
    slas = [SLA(min_quality=0.05)] * JOBS
    first_id = await factory.submit(db, JOBS, plan_only=True, slas=slas, objective=aim)
    await factory.score(db, first_id)
    async with db.transaction() as conn:
        margins = [0.0, 0.1]
        await conn.execute("INSERT INTO floors VALUES (%s, %s::real[])", [first_id, margins])
    first = await selected(db, first_id)
    async with db.transaction() as conn:
        second_id = await derive_plan(conn, first, None, Objective(), shard_size=2)
    second = await selected(db, second_id)
    assert second.objective == aim
    # 0.1 and a little for each job, less the margin of 0.1: no large model reaches the floor.
    assert (first.plan or {})["no_eligible_model"] == JOBS
    assert (second.plan or {})["no_eligible_model"] == JOBS


async def test_a_batch_that_is_not_scored_gives_no_plan(db: Database) -> None:
    batch = await found(db, await factory.submit(db))
    with pytest.raises(InputError, match="only 0 of 4 jobs are scored"):
        async with db.transaction() as conn:
            await derive_plan(conn, batch, None, Objective(), shard_size=2)


async def test_a_plans_key_is_not_taken_for_a_submission(db: Database, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Why?"}\n')
    request = BatchRequest(factory.pool_of("small"), idempotency_key="monday", plan_only=True)
    plan = await submit(db, Source.of(str(rows)), request, shard_size=10)
    again = await submit(db, Source.of(str(rows)), request, shard_size=10)
    assert (again.batch_id, again.created) == (plan.batch_id, False)
    with pytest.raises(InputError, match=f"submit --plan {plan.batch_id}"):
        await submit(db, Source.of(str(rows)), replace(request, plan_only=False), shard_size=10)
