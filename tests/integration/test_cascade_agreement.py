"""The dispatch stage decides about recorded answers as the library alone does, to the item."""

import asyncio
import os
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from aiohttp.test_utils import TestServer

from routoo.console.output import ConsoleFeedback
from routoo.domain.answer import RecordedAnswer
from routoo.domain.items import Item
from routoo.domain.job import Job, Lease, ShardKey, Stage
from routoo.domain.pool import CandidateModel, Endpoint, Pool, Tariff
from routoo.domain.prediction import Assignment, Predictions
from routoo.domain.tables import Outcomes, read_answers, read_items, read_outcomes
from routoo.evaluation.replay import Replay
from routoo.judge.files import load_judge, pack_judge, write_judge
from routoo.judge.judge import AnswerJudge, ProbeAnswer
from routoo.pipeline.select.estimates import NOTHING_KNOWN, estimate_calls
from routoo.predictor.checkpoint import write_checkpoint
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.manifest import Manifest
from routoo.selector.second_calls import second_calls
from routoo.store import assignments, batches, jobs, judges, predictions, shards
from routoo.store.database import Database
from routoo.training.judge import PromptEstimates, fit_judge
from tests.dispatch_factory import claim, dispatch, rows

pytestmark = pytest.mark.anyio

DATA = Path(os.environ.get("ROUTOO_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")
MODELS = ("Qwen2.5-7B-Instruct", "o1-mini-2024-09-12")
PRICE_PER_USD = 60.0
"""At which about half of the answers are accepted."""
HELD_OUT = 120


@dataclass(frozen=True)
class Recorded:
    """Recorded answers to items, models as columns; the first items are held out."""

    items: list[Item]
    answers: dict[tuple[str, str], RecordedAnswer]
    outcomes: Outcomes
    score: Any
    quality: Any
    """Of every model the same for all items, but for some noise."""
    tokens: Any

    @classmethod
    def read(cls) -> "Recorded":
        answers = {
            (one.item_id, one.model): one
            for one in read_answers(DATA / "zeroeval_math_l5_answers.parquet")
            if one.model in MODELS and one.text.strip()  # an empty one counts as a failed call
        }
        outcomes = read_outcomes(DATA / "zeroeval_math_l5_outcomes.parquet")
        found = dict(
            zip(zip(outcomes.item_ids, outcomes.models, strict=True), outcomes.score, strict=True)
        )
        items = [
            item
            for item in read_items(DATA / "zeroeval_math_l5_items.parquet")
            if all((item.item_id, name) in found for name in MODELS)
            and all((item.item_id, name) in answers for name in MODELS)
        ]
        score = np.array(
            [[found[item.item_id, name] for name in MODELS] for item in items], np.float32
        )
        noise = np.random.default_rng(1).normal(0, 0.05, score.shape)
        quality = np.clip(score.mean(axis=0) + noise, 0.05, 0.95).astype(np.float32)
        tokens = np.full(score.shape, 400, np.float32)
        return cls(items, answers, outcomes, score, quality, tokens)

    def judge(self) -> AnswerJudge:
        """Fit a judge to the items that are not held out."""
        rest = slice(HELD_OUT, None)
        matrix = OutcomeMatrix(tuple(self.items[rest]), MODELS, self.score[rest], self.tokens[rest])
        estimates = PromptEstimates(self.quality[rest], self.tokens[rest])
        said = [self.answers[item.item_id, MODELS[0]] for item in self.items[rest]]
        return fit_judge(matrix, estimates, said, ConsoleFeedback(), seed=0)


def pool_at(url: str) -> Pool:
    prices = (Decimal("0.1"), Decimal(5))
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                endpoint=Endpoint(base_url=url, max_concurrency=32, timeout_s=20),
                price_usd_per_mtok=Tariff(prompt=price, completion=price),
                context_window_tokens=100_000,
            )
            for name, price in zip(MODELS, prices, strict=True)
        )
    )


def body_of(item: Item) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": item.prompt}], "max_tokens": 4000}


async def probed(db: Database, pool: Pool, recorded: Recorded, judge: bytes) -> Lease:
    """Bring the held-out items to their dispatch, each as a probe of the cheap model."""
    count = HELD_OUT
    async with db.transaction() as conn:
        batch_id, _ = await batches.create(conn, batches.NewBatch("recorded", pool))
        async with jobs.copy_jobs(conn, batch_id) as copy:
            texts = [orjson.dumps(body_of(item)).decode() for item in recorded.items[:count]]
            await copy.write([jobs.JobInput(n, f"job-{n}", text) for n, text in enumerate(texts)])
        await batches.seal(conn, batch_id, count, count)
    score = await claim(db, ShardKey(batch_id, Stage.SCORE, 0))
    held_out = Predictions(
        recorded.quality[:count],
        np.zeros((count, 2), np.float32),
        recorded.tokens[:count],
        np.zeros(count, np.float32),
        np.zeros(count, np.bool_),
    )
    async with db.transaction() as conn:
        await predictions.save(conn, score, held_out)
        await judges.keep(conn, score, judge)
        await shards.finish(conn, score, shards.Done())
    lease = await claim(db, ShardKey(batch_id, Stage.SELECT, 0))
    chosen = [
        Assignment(n, MODELS[0], 0.5, Decimal("0.001"), probe=True, escalation_chance=0.5)
        for n in range(count)
    ]
    async with db.transaction() as conn:
        await assignments.save(conn, lease, chosen, 1)
        await shards.finish(conn, lease, shards.Done())
    await rows(
        db,
        "UPDATE batches SET plan = json_build_object('shadow_price_per_usd', %s::float)"
        " RETURNING 1",
        PRICE_PER_USD,
    )
    return await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0))


@dataclass(frozen=True)
class Shown:
    """A judgement as the selector takes what judging may show: one outcome, certain."""

    chance: Any
    quality: Any


def by_the_library(recorded: Recorded, judge: AnswerJudge, pool: Pool) -> list[tuple[str, str]]:
    """Return the answering model and the decision for each held-out item."""
    items, quality = recorded.items[:HELD_OUT], recorded.quality[:HELD_OUT]
    said = [
        ProbeAnswer(
            item.prompt,
            recorded.answers[item.item_id, MODELS[0]].text,
            expected,
            400.0,
            "stop",
        )
        for item, expected in zip(items, quality, strict=True)
    ]
    after = judge.judge(MODELS[0], said)
    asked = [Job(n, str(n), body_of(item)) for n, item in enumerate(items)]
    calls = estimate_calls(asked, pool, quality, recorded.tokens[:HELD_OUT], NOTHING_KNOWN)
    shown = Shown(np.ones((HELD_OUT, 1), np.float32), after[:, None, :])
    follow = np.ones((HELD_OUT, 2), np.bool_)
    target = second_calls(shown, 0, calls.cost_usd, follow, PRICE_PER_USD).target[0]
    return [(MODELS[model], "accepted" if model == 0 else "escalated") for model in target]


@pytest.mark.skipif(not DATA.exists(), reason="needs the recorded answers in shared/data")
async def test_answers_are_accepted_and_escalated_as_by_the_library(
    db: Database, tmp_path: Path
) -> None:
    recorded = Recorded.read()
    judge = await asyncio.to_thread(recorded.judge)
    manifest = Manifest(MODELS, "", "", (), "", "", "", {}, {}, judge=write_judge(tmp_path, judge))
    write_checkpoint(tmp_path, b"", manifest)
    packed, judge = pack_judge(tmp_path), load_judge(tmp_path)
    assert packed is not None
    replayed = Replay(recorded.outcomes, recorded.items, recorded.answers.values())
    async with TestServer(replayed.application()) as server:
        pool = pool_at(str(server.make_url("/v1")))
        lease = await probed(db, pool, recorded, packed)
        assert await dispatch(db, lease)
    found = await rows(db, "SELECT model, decision, answer FROM results ORDER BY job_no")
    assert [(model, decision) for model, decision, _ in found] == by_the_library(
        recorded, judge, pool
    )
    assert {decision for _, decision, _ in found} == {"accepted", "escalated"}
    for item, (model, _, text) in zip(recorded.items[:HELD_OUT], found, strict=True):
        assert text == recorded.answers[item.item_id, model].text
