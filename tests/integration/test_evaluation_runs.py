"""Evaluation runs against a real database: begun, graded when their batches end, compared."""

from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest

from routoo.domain.batch_options import Objective
from routoo.domain.items import Item
from routoo.domain.prompt import text_sha256
from routoo.errors import InputError
from routoo.evaluation.evaluation_run import chosen_cost, chosen_quality
from routoo.evaluation.graders.grade import SCORE_KEY
from routoo.evaluation_runs.finish import finish_due
from routoo.evaluation_runs.load import load_run
from routoo.store import batches
from routoo.store.database import Database
from routoo.store.evaluation import alerts, eval_runs, eval_sets
from routoo.store.evaluation.eval_runs import RunRecord
from routoo.store.evaluation.eval_sets import Purpose
from tests.batch_factory import pool_of
from tests.run_factory import SHARD, add_set, begin, complete, questions

pytestmark = pytest.mark.anyio


def right(_model: str, prompt: str) -> str:
    return f"The answer is {prompt.removeprefix('Say ')}"


def wrong(_model: str, _prompt: str) -> str:
    return "The answer is 1000."


async def run_of(db: Database, run_id: UUID) -> RunRecord:
    async with db.transaction() as conn:
        return await eval_runs.get(conn, run_id)


async def ended(db: Database, run_id: UUID, answer: Any) -> RunRecord:
    """Complete a run's batches and grade it."""
    run = await run_of(db, run_id)
    for batch_id in (run.batch_id, run.sample_batch_id):
        if batch_id is not None:
            await complete(db, batch_id, answer)
    assert await finish_due(db, shard_size=SHARD) == [run_id]
    return await run_of(db, run_id)


async def test_the_same_content_is_one_version_and_other_content_another(db: Database) -> None:
    first = await add_set(db, questions(3))
    assert await add_set(db, questions(3)) == first
    changed = await add_set(db, [*questions(2), Item("q-2", "Say 2.", answer="two")])
    assert changed.content_sha256 != first.content_sha256
    async with db.transaction() as conn:
        assert (await eval_sets.find(conn, "example")).id == changed.id
        assert (await eval_sets.find(conn, f"example@{first.content_sha256[:8]}")).id == first.id
        assert await eval_sets.load_items(conn, first.id) == questions(3)


async def test_a_run_waits_for_its_batch_and_is_graded_once(db: Database) -> None:
    run_id = await begin(db, await add_set(db, questions(4)))
    assert await finish_due(db, shard_size=SHARD) == []
    run = await ended(
        db, run_id, lambda model, prompt: right(model, prompt) if "2" in prompt else "3 or 4"
    )
    assert (run.state, run.error) == ("finished", None)
    assert run.figures is not None
    assert (run.figures["quality"]["mean"], run.figures["ungraded"]) == (1.0, 3)
    assert await finish_due(db, shard_size=SHARD) == []


async def test_an_ambiguous_answer_is_kept_with_the_reason_and_without_a_score(
    db: Database,
) -> None:
    run = await ended(db, await begin(db, await add_set(db, questions(1))), lambda *_: "3 or 4")
    async with db.transaction() as conn:
        rows = await conn.execute(
            "SELECT score, detail FROM grades WHERE batch_id = %s", [run.batch_id]
        )
        assert await rows.fetchall() == [(None, "several numbers: 3, 4")]


async def test_every_candidate_answers_the_sample_and_the_router_is_not_disturbed(
    db: Database,
) -> None:
    eval_set = await add_set(db, questions(6))
    run_id = await begin(db, eval_set, sample_size=2)
    await ended(db, run_id, lambda model, prompt: right(model, prompt) if model == "large" else "0")
    async with db.transaction() as conn:
        found = await load_run(conn, run_id)
    assert found.models == ("small", "large")
    assert len(found.sampled) == 2
    np.testing.assert_array_equal(found.sample_quality[found.sampled, 1], [1, 1])
    assert np.isnan(found.sample_quality).sum() == 8
    assert found.chosen.tolist() == [1] * 6
    np.testing.assert_array_equal(found.quality, np.ones(6, np.float32))
    assert found.domains[:2] == ("field-0", "field-1")


async def test_a_budget_must_cover_the_sample_too(db: Database) -> None:
    eval_set = await add_set(db, questions(2))
    with pytest.raises(InputError, match="its sample has none"):
        await begin(db, eval_set, sample_size=1, budget_usd=1)


async def test_a_failed_batch_fails_its_run_with_the_reason(db: Database) -> None:
    run_id = await begin(db, await add_set(db, questions(2)))
    async with db.transaction() as conn:
        await conn.execute("UPDATE batches SET status = 'failed', error = 'no such model'")
    assert await finish_due(db, shard_size=SHARD) == [run_id]
    run = await run_of(db, run_id)
    assert run.state == "failed"
    assert run.error is not None
    assert run.error.endswith("is failed: no such model")
    async with db.transaction() as conn:
        (alert,) = await alerts.of_run(conn, run_id)
    assert (alert.kind, "no such model" in alert.message) == ("failed", True)


async def test_worse_answers_raise_an_alert_and_equal_ones_none(db: Database) -> None:
    eval_set = await add_set(db, questions(40))
    for answer, kinds in ((right, set()), (right, set()), (wrong, {"quality", "answers"})):
        run = await ended(db, await begin(db, eval_set), answer)
        async with db.transaction() as conn:
            found = await alerts.of_run(conn, run.id)
        assert {one.kind for one in found} >= kinds
        assert bool(found) is bool(kinds)


async def test_a_run_keeps_its_aim_and_is_compared_with_runs_of_the_same_aim(
    db: Database,
) -> None:
    eval_set = await add_set(db, questions(2))
    frugal = Objective(match_model="small", match_ratio=0.9)
    for objective, comparable in ((Objective(), 0), (frugal, 0), (frugal, 1), (Objective(), 1)):
        run = await ended(db, await begin(db, eval_set, objective=objective), right)
        async with db.transaction() as conn:
            assert (await batches.get(conn, run.batch_id)).objective == objective
            assert (await load_run(conn, run.id)).facts.goal == objective.goal
            assert len(await eval_runs.history(conn, run, 10)) == comparable


async def test_a_judge_is_asked_in_both_orders_and_a_contradiction_is_ungraded(
    db: Database,
) -> None:
    items = [Item(f"q-{n}", f"Say {n}.", answer="well said", grader="judge") for n in range(2)]
    judge = {"model": pool_of("judge").models[0].model_dump(mode="json"), "budget_usd": "1"}
    run_id = await begin(db, await add_set(db, items), judge=judge)
    await complete(db, (await run_of(db, run_id)).batch_id, lambda *_: "so so")
    assert await finish_due(db, shard_size=SHARD) == []
    run = await run_of(db, run_id)
    assert run.state == "judging"
    assert run.judge_batch_id is not None

    def verdict(_model: str, prompt: str) -> str:
        # Of the first question the answer wins in either order; of the second what stands first.
        answer_first = prompt.index("so so") < prompt.index("well said")
        return "Verdict: B" if "Say 0." in prompt and not answer_first else "Verdict: A"

    await complete(db, run.judge_batch_id, verdict)
    assert await finish_due(db, shard_size=SHARD) == [run_id]
    async with db.transaction() as conn:
        found = await load_run(conn, run_id)
        spent = await conn.execute(
            "SELECT limit_usd FROM ledgers WHERE batch_id = %s", [run.judge_batch_id]
        )
        assert await spent.fetchone() == (1,)
    assert found.quality[0] == 1
    assert np.isnan(found.quality[1])


async def test_items_of_evaluation_are_held_out_of_training(db: Database) -> None:
    await add_set(db, questions(1))
    async with db.transaction() as conn:
        await eval_sets.add(conn, "practice", [Item("p", "Say 7.")], Purpose.TRAINING)
        hashes = [text_sha256(text) for text in ("say  0", "Say 7.")]
        assert await eval_sets.held_out(conn, hashes) == {text_sha256("Say 0.")}


async def test_a_recorded_answer_with_a_nul_is_graded_as_all_others(db: Database) -> None:
    run_id = await begin(db, await add_set(db, questions(3)))
    run = await run_of(db, run_id)
    await complete(db, run.batch_id, wrong)
    response = {SCORE_KEY: 0.5, "choices": [{"message": {"content": "a\0b"}}]}
    async with db.transaction() as conn:
        await conn.execute("UPDATE eval_runs SET recorded = true")
        await conn.execute(
            "UPDATE results SET response = %s::json WHERE batch_id = %s AND job_no > 0",
            [orjson.dumps(response).decode(), run.batch_id],
        )
    assert await finish_due(db, shard_size=SHARD) == [run_id]
    figures = (await run_of(db, run_id)).figures
    assert figures is not None
    assert (figures["quality"]["mean"], figures["ungraded"]) == (0.5, 1)


async def test_what_a_plan_expects_of_a_probe_is_not_the_cost_of_one_call(db: Database) -> None:
    run_id = await begin(db, await add_set(db, questions(4)))
    run = await ended(db, run_id, right)
    async with db.transaction() as conn:
        plain = await load_run(conn, run_id)
        await conn.execute(
            "UPDATE assignments SET probe = true, expected_cost_usd = 7 WHERE batch_id = %s"
            " AND job_no < 2",
            [run.batch_id],
        )
        await conn.execute(
            "UPDATE results SET decision = 'accepted', expected_quality = 0.875"
            " WHERE batch_id = %s AND job_no < 2",
            [run.batch_id],
        )
        judged = await load_run(conn, run_id)
    np.testing.assert_allclose(judged.expected_cost_usd, plain.expected_cost_usd, rtol=1e-6)
    assert chosen_cost(judged)[:2].tolist() == [7, 7]
    np.testing.assert_array_equal(chosen_cost(judged)[2:], chosen_cost(plain)[2:])
    assert chosen_quality(judged)[:2].tolist() == [0.875, 0.875]
    np.testing.assert_array_equal(chosen_quality(judged)[2:], chosen_quality(plain)[2:])
