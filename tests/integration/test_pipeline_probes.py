"""The selection with a judge of answers: probes in assignments, plans and explanations."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from producer.screen.explanation import explanation_json, explanation_sentences
from producer.screen.plan import plot_plan
from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.completion import AnswerJudgement
from routoo.domain.job import SLA, Stage
from routoo.domain.prediction import ModelExperience, Predictions
from routoo.pipeline.explanation import explain_job
from routoo.pipeline.select import matrix, shard
from routoo.pipeline.select.shard import select_shard
from routoo.store import batches, checkpoints, kept_answers, ledger, predictions, shards
from routoo.store.batches import replans
from routoo.store.database import Database
from tests import batch_factory

pytestmark = pytest.mark.anyio

JOBS = 40
NAMES = ("small", "large")


@dataclass(frozen=True)
class Outcomes:
    chance: Any
    quality: Any


class FakeJudge:
    """Tells nearly for certain whether the small model's answer is good."""

    probes = ("small",)
    pairs = ()

    def judgement_model(self, models: Sequence[str], quality: Any) -> "FakeJudgementModel":
        assert list(models) == list(NAMES)
        return FakeJudgementModel(np.asarray(quality, np.float32))


@dataclass(frozen=True)
class FakeJudgementModel:
    quality: Any

    def of(self, probe: int, models: Sequence[int], rows: Any = None) -> Outcomes:
        assert (probe, rows) == (0, None)
        own = self.quality[:, 0]
        chance = np.stack([own, 1 - own], axis=1).astype(np.float32)
        shown = np.repeat(self.quality[:, None, :], 2, axis=1)
        shown[:, 0, 0], shown[:, 1, 0] = 1.0, 0.0
        return Outcomes(chance, shown.astype(np.float32)[:, :, list(models)])


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every batch that wants it have a judge."""

    async def load(_conn: Any, batch: Any) -> Any:
        return FakeJudge() if batch.call_options.cascade else None

    monkeypatch.setattr(matrix, "load_judge", load)


def predicted(count: int) -> Predictions:
    quality = np.tile(np.array([0.5, 0.9], np.float32), (count, 1))
    quality[:, 0] += np.linspace(-0.2, 0.2, count, dtype=np.float32)
    return Predictions(
        quality=quality,
        quality_std=np.full((count, 2), 0.1, np.float32),
        completion_tokens=np.tile(np.array([10, 1000], np.float32), (count, 1)),
        novelty=np.zeros(count, np.float32),
        truncated=np.zeros(count, np.bool_),
    )


async def scored(db: Database, **options: Any) -> UUID:
    batch_id = await batch_factory.submit(db, JOBS, shard_size=JOBS, **options)
    lease = await batch_factory.claim(db, batch_id, Stage.SCORE)
    async with db.transaction() as conn:
        await predictions.save(conn, lease, predicted(JOBS))
        await shards.finish(conn, lease, shards.Done())
    return batch_id


async def selected(db: Database, **options: Any) -> UUID:
    batch_id = await scored(db, **options)
    lease = await batch_factory.claim(db, batch_id, Stage.SELECT)
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    await select_shard(db, lease, batch)
    async with db.transaction() as conn:
        await shards.finish(conn, lease, shards.Done())
    return batch_id


async def plan_of(db: Database, batch_id: UUID) -> dict[str, Any]:
    async with db.transaction() as conn:
        found = (await batches.get(conn, batch_id)).plan
    assert found is not None
    return found


async def assigned(db: Database, batch_id: UUID) -> list[tuple[Any, ...]]:
    async with db.transaction() as conn:
        cursor = await conn.execute(
            "SELECT model, probe, escalation_chance, expected_quality, expected_cost_usd"
            " FROM assignments WHERE batch_id = %s ORDER BY job_no, revision",
            [batch_id],
        )
        return await cursor.fetchall()


@pytest.mark.usefixtures("judged")
async def test_probes_are_assigned_and_described(db: Database) -> None:
    batch_id = await selected(db, budget_usd="0.05")
    rows, plan = await assigned(db, batch_id), await plan_of(db, batch_id)
    probes = [row for row in rows if row[1]]
    assert len(probes) == plan["probes"]["jobs"] > JOBS / 2
    assert all(model == "small" and 0 < chance < 1 for model, _, chance, _, _ in probes)
    assert all(quality > 0.6 for _, _, _, quality, _ in probes)
    cost_usd = float(sum(row[4] for row in rows))
    assert cost_usd == pytest.approx(plan["expected_cost_usd"])
    assert cost_usd <= 0.05
    escalations = sum(row[2] for row in probes)
    assert plan["probes"]["escalations"] == pytest.approx(escalations, abs=1e-3)
    assert plan["probes"]["second"] == {"large": pytest.approx(escalations, abs=1e-3)}
    assert plan["probes"]["threshold_price_per_usd"] > 0
    assert plan["direct"]["expected_cost_usd"] <= plan["expected_cost_usd"] * (1 + 1e-9)
    assert 0 < plan["direct"]["expected_quality"] < plan["expected_quality"]
    assert plan["expected_quality"] == pytest.approx(np.mean([row[3] for row in rows]), abs=1e-5)


@pytest.mark.usefixtures("judged")
async def test_judging_brings_more_than_not_judging(db: Database) -> None:
    with_probes = await plan_of(db, await selected(db, budget_usd="0.05"))
    without = CallOptions(dedupe=False, cascade=False)
    plain = await plan_of(db, await selected(db, budget_usd="0.05", call_options=without))
    assert "probes" not in plain
    assert with_probes["expected_quality"] > plain["expected_quality"] + 0.02


async def test_without_a_judge_a_plan_is_what_it_was(db: Database) -> None:
    batch_id = await selected(db, budget_usd="0.05")
    plan, rows = await plan_of(db, batch_id), await assigned(db, batch_id)
    assert "probes" not in plan
    assert {row[1] for row in rows} == {False}
    none = CallOptions(dedupe=False, cascade=False)
    again = await selected(db, budget_usd="0.05", call_options=none)
    assert await plan_of(db, again) == plan
    assert await assigned(db, again) == rows


@pytest.mark.usefixtures("judged")
async def test_only_the_models_that_are_named_are_asked_first(db: Database) -> None:
    only_large = CallOptions(dedupe=False, cascade_only=("large",))
    batch_id = await selected(db, budget_usd="0.05", call_options=only_large)
    assert not any(row[1] for row in await assigned(db, batch_id))


@pytest.mark.usefixtures("judged")
async def test_a_cost_cap_that_covers_one_call_only_admits_no_probe(db: Database) -> None:
    async with db.transaction() as conn:
        batch = await batches.get(conn, await scored(db))
    large = batch.pool.models[1]
    most = large.cost_usd(100, large.max_completion_tokens)
    capped = [SLA(max_cost_usd=most * Decimal("1.2")) for _ in range(JOBS)]
    batch_id = await selected(db, budget_usd="0.05", slas=capped)
    rows = await assigned(db, batch_id)
    assert {row[0] for row in rows} == {"small", "large"}
    assert not any(row[1] for row in rows)


@pytest.mark.usefixtures("judged")
async def test_a_plan_forecasts_both_calls_and_draws_the_frontier_with_probes(
    db: Database, tmp_path: Path
) -> None:
    plan = await plan_of(db, await selected(db, budget_usd="0.05", plan_only=True))
    forecast = plan["forecast"]
    assert forecast["worst_case_usd"] >= plan["expected_cost_usd"]
    points = forecast["frontier"]
    assert all(one["mean_quality"] >= one["direct_quality"] - 1e-6 for one in points)
    gains = [one["mean_quality"] - one["direct_quality"] for one in points]
    assert max(gains) > 0.02
    plot_plan(plan, tmp_path / "plan.svg")
    drawn = (tmp_path / "plan.svg").read_text()
    assert "at worst" in drawn
    assert "are probes" in drawn


@pytest.mark.usefixtures("judged")
async def test_a_mean_quality_is_reached_for_less_with_probes(db: Database) -> None:
    aim = Objective(min_mean_quality=0.8)
    with_probes = await plan_of(db, await selected(db, objective=aim))
    none = CallOptions(dedupe=False, cascade=False)
    plain = await plan_of(db, await selected(db, objective=aim, call_options=none))
    assert with_probes["expected_quality"] >= 0.8 - 1e-6
    assert with_probes["expected_cost_usd"] < 0.9 * plain["expected_cost_usd"]


@pytest.mark.usefixtures("judged")
async def test_an_explanation_shows_the_probe_among_the_options(db: Database) -> None:
    batch_id = await selected(db, budget_usd="0.05")
    first = next(n for n, row in enumerate(await assigned(db, batch_id)) if row[1])
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
        explained = await explain_job(conn, batch, f"job-{first}")
    candidates = {one.model: one for one in explained.explanation.candidates}
    assert list(candidates) == ["small", "large", "small, judged"]
    assert candidates["small, judged"].standing == "chosen"
    assert len(explained.quality) == len(explained.latency_s) == len(explained.quality_std) == 3
    small, large, both = explained.worst_usd
    assert 0 < small <= large
    assert both == pytest.approx(small + large)
    shown = explanation_json(batch, explained)["candidates"]
    assert shown[2]["worst_cost_usd"] == both > shown[2]["cost_usd"]
    assert explained.history.decisions[-1].probe


@pytest.mark.usefixtures("judged")
async def test_an_explanation_shows_each_judgement_with_its_figures(db: Database) -> None:
    batch_id = await selected(db, budget_usd="0.05")
    first = next(n for n, row in enumerate(await assigned(db, batch_id)) if row[1])
    lease = await batch_factory.claim(db, batch_id, Stage.DISPATCH)
    judgements = [
        AnswerJudgement(first, 1, "escalated", fault="regex: no match", next_model="small"),
        AnswerJudgement(first, 2, "escalated", 0.5, 0.25, 0.8125, 60.0, "large"),
    ]
    async with db.transaction() as conn:
        await kept_answers.save_judgements(conn, lease, judgements)
        batch = await batches.get(conn, batch_id)
        explained = await explain_job(conn, batch, f"job-{first}")
    assert explained.history.judgements == tuple(judgements)
    shown = list(explanation_sentences(batch, explained))
    assert (
        "Its answer to call 1 was escalated; it broke a rule (regex: no match); next was small."
    ) in shown
    assert (
        "Its answer to call 2 was escalated: it was expected to be good with 50.0%, judged with "
        "25.0%, and asking another model was worth 0.812; next was large."
    ) in shown
    assert any("its answer is judged, another model is asked" in line for line in shown)
    facts = explanation_json(batch, explained)["judgements"][1]
    assert (facts["before"], facts["after"], facts["threshold"]) == (0.5, 0.25, 0.8125)
    assert (facts["price_per_usd"], facts["next_model"]) == (60.0, "large")


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize(("deadline_s", "probed"), [(1500, False), (9000, True)])
async def test_a_rows_own_deadline_must_leave_time_for_both_calls(
    db: Database, monkeypatch: pytest.MonkeyPatch, deadline_s: float, probed: bool
) -> None:
    """No deadline of the batch asks for latencies here; either call takes about 1000 s."""
    known = {name: ModelExperience(base_s=1000.0, calls=50) for name in NAMES}

    async def load(*_args: Any) -> Any:
        return known

    monkeypatch.setattr(shard, "batch_experience", load)
    deadline = datetime.now(UTC) + timedelta(seconds=deadline_s)
    slas = [SLA(deadline=deadline)] * JOBS
    batch_id = await selected(db, budget_usd="0.05", slas=slas)
    assert any(row[1] for row in await assigned(db, batch_id)) == probed


@pytest.mark.usefixtures("judged")
async def test_a_replan_keeps_probes_and_moves_none_without_a_reason(db: Database) -> None:
    batch_id = await selected(db, budget_usd="0.05")
    before = await assigned(db, batch_id)
    async with db.transaction() as conn:
        assert await replans.request(conn, batch_id, "test")
    lease = await batch_factory.claim(db, batch_id, Stage.SELECT)
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    await select_shard(db, lease, batch)
    assert await assigned(db, batch_id) == before
    plan = await plan_of(db, batch_id)
    assert plan["revision"] == 2
    assert plan["probes"]["jobs"] == sum(row[1] for row in before)


@pytest.mark.usefixtures("judged")
async def test_money_that_may_follow_probes_under_way_is_not_planned_with_again(
    db: Database,
) -> None:
    batch_id = await selected(db, budget_usd="0.03")
    before = await assigned(db, batch_id)
    lease = await batch_factory.claim(db, batch_id, Stage.DISPATCH)
    called = [n for n, row in enumerate(before) if row[1]][:10]
    async with db.transaction() as conn:
        await ledger.reserve(conn, lease, [batch_factory.reservation(n, "0.0001") for n in called])
        assert await replans.request(conn, batch_id, "test")
    lease = await batch_factory.claim(db, batch_id, Stage.SELECT)
    async with db.transaction() as conn:
        batch = await batches.get(conn, batch_id)
    await select_shard(db, lease, batch)
    async with db.transaction() as conn:
        (revision,) = await replans.history(conn, batch_id)
    assert revision.after is not None
    assert revision.after["jobs"] == JOBS - len(called)
    under_way_usd = float(sum(before[n][4] for n in called))
    assert under_way_usd + revision.after["expected_cost_usd"] == pytest.approx(0.03, rel=0.1)
    assert under_way_usd + revision.after["expected_cost_usd"] <= 0.03 + 1e-9


async def test_a_judge_is_kept_once_for_all_batches_that_use_it(db: Database) -> None:
    first, second = [await batch_factory.submit(db, 4) for _ in range(2)]
    async with db.transaction() as conn:
        assert await checkpoints.judge_content(conn, first) is None
    for batch_id in (first, second):
        for shard_no in range(2):
            lease = await batch_factory.claim(db, batch_id, Stage.SCORE, shard_no)
            async with db.transaction() as conn:
                await checkpoints.keep_judge(conn, lease, b"judge")
    async with db.transaction() as conn:
        assert await checkpoints.judge_content(conn, second) == b"judge"
        cursor = await conn.execute("SELECT count(*) FROM judges")
        assert await cursor.fetchone() == (1,)
