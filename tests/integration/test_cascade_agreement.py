"""The dispatch stage decides about recorded answers as the library alone does, to the item."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pytest
from aiohttp.test_utils import TestServer

from routoo.cli.replay import Replay, application
from routoo.console.output import ConsoleFeedback
from routoo.domain.batch_options import Objective
from routoo.domain.completion import RecordedAnswer
from routoo.domain.endpoint import Endpoint
from routoo.domain.items import Item
from routoo.domain.job import SLA, Job, Lease, ShardKey, Stage
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.domain.prediction import Assignment, Predictions
from routoo.domain.prompt import bound_cost_usd
from routoo.domain.tables import Outcomes, read_answers, read_items, read_outcomes
from routoo.judge.files import load_judge, pack_judge, write_judge
from routoo.judge.judge import AnswerJudge, ProbeAnswer
from routoo.judge.pair_judge import MOST_PRICE_SHARE
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select.estimates import NOTHING_KNOWN, estimate_calls
from routoo.predictor.checkpoint import write_checkpoint
from routoo.predictor.dataset import OutcomeMatrix
from routoo.predictor.manifest import Manifest
from routoo.selector.comparisons import Comparisons
from routoo.selector.policies import Policies
from routoo.selector.probe_model import ProbeModel
from routoo.selector.probes import with_policies
from routoo.selector.problem import Problem
from routoo.selector.second_calls import SecondCalls, second_calls
from routoo.selector.solvers import solve
from routoo.store import assignments, batches, checkpoints, jobs, predictions, shards
from routoo.store.database import Database
from routoo.training.judge import PromptEstimates, fit_judge
from tests.dispatch_factory import claim, dispatch, rows, select

pytestmark = pytest.mark.anyio

DATA = Path(os.environ.get("ROUTOO_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")
MODELS = ("Qwen2.5-7B-Instruct", "o1-mini-2024-09-12")
PRICES = (Decimal("0.1"), Decimal(5))
COMPARED = ("gpt-4o-mini-2024-07-18", "deepseek-v2.5-0908", "gpt-4o-2024-08-06")
COMPARED_PRICES = (Decimal("0.5"), Decimal("0.2"), Decimal(5))
COMPARED_PRICE_PER_USD = 40.0
"""At which some second answers are compared, and some models are asked third."""
PRICE_PER_USD = 60.0
"""At which about half of the answers are accepted."""
HELD_OUT = 120
CAPPED = 40
"""The last items have a cost cap that covers a call to the strong model, and not one to both."""


@dataclass(frozen=True)
class Recorded:
    """Recorded answers to items, models as columns; the first items are held out."""

    models: tuple[str, ...]
    items: list[Item]
    answers: dict[tuple[str, str], RecordedAnswer]
    outcomes: Outcomes
    score: Any
    quality: Any
    """Of every model the same for all items, but for some noise."""
    tokens: Any

    @classmethod
    def read(cls, table: str, models: tuple[str, ...]) -> "Recorded":
        answers = {
            (one.item_id, one.model): one
            for one in read_answers(DATA / f"{table}_answers.parquet")
            if one.model in models and one.text.strip()  # an empty one counts as a failed call
        }
        outcomes = read_outcomes(DATA / f"{table}_outcomes.parquet")
        found = dict(
            zip(zip(outcomes.item_ids, outcomes.models, strict=True), outcomes.score, strict=True)
        )
        items = [
            item
            for item in read_items(DATA / f"{table}_items.parquet")
            if all((item.item_id, name) in found for name in models)
            and all((item.item_id, name) in answers for name in models)
        ]
        score = np.array(
            [[found[item.item_id, name] for name in models] for item in items], np.float32
        )
        noise = np.random.default_rng(1).normal(0, 0.05, score.shape)
        quality = np.clip(score.mean(axis=0) + noise, 0.05, 0.95).astype(np.float32)
        tokens = np.full(score.shape, 400, np.float32)
        return cls(models, items, answers, outcomes, score, quality, tokens)

    def judge(self) -> AnswerJudge:
        """Fit a judge to the items that are not held out."""
        rest = slice(HELD_OUT, None)
        items, models = self.items[rest], self.models
        matrix = OutcomeMatrix(tuple(items), models, self.score[rest], self.tokens[rest])
        estimates = PromptEstimates(self.quality[rest], self.tokens[rest])
        said = [self.answers[item.item_id, name] for name in models[:-1] for item in items]
        costs = dict(zip(COMPARED, map(float, COMPARED_PRICES), strict=True))
        return fit_judge(matrix, estimates, said, ConsoleFeedback(), seed=0, cost_usd=costs)


def pool_at(url: str, models: tuple[str, ...]) -> Pool:
    prices = PRICES if models == MODELS else COMPARED_PRICES
    return Pool(
        models=tuple(
            CandidateModel(
                name=name,
                endpoint=Endpoint(base_url=url, max_concurrency=32, timeout_s=20),
                price_usd_per_mtok=Tariff(prompt=price, completion=price),
                context_window_tokens=100_000,
            )
            for name, price in zip(models, prices, strict=True)
        )
    )


def body_of(item: Item) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": item.prompt}], "max_tokens": 4000}


def job_of(number: int, item: Item, pool: Pool) -> jobs.JobInput:
    body = body_of(item)
    cap_usd = bound_cost_usd(body, pool.models[-1]) + Decimal("1e-9")
    capped = number >= HELD_OUT - CAPPED
    sla = SLA(max_cost_usd=cap_usd) if capped else SLA()
    return jobs.JobInput(number, f"job-{number}", orjson.dumps(body).decode(), sla)


async def scored(db: Database, recorded: Recorded, judge: bytes, new: batches.NewBatch) -> UUID:
    """Bring the held-out items to the selection."""
    count = HELD_OUT
    async with db.transaction() as conn:
        batch_id, _ = await batches.create(conn, new)
        async with jobs.copy_jobs(conn, batch_id) as copy:
            held_out = enumerate(recorded.items[:count])
            await copy.write([job_of(number, item, new.pool) for number, item in held_out])
        await batches.seal(conn, batch_id, count, count)
    score = await claim(db, ShardKey(batch_id, Stage.SCORE, 0))
    expected = Predictions(
        recorded.quality[:count],
        np.zeros(recorded.quality[:count].shape, np.float32),
        recorded.tokens[:count],
        np.zeros(count, np.float32),
        np.zeros(count, np.bool_),
    )
    async with db.transaction() as conn:
        await predictions.save(conn, score, expected)
        await checkpoints.keep_judge(conn, score, judge)
        await shards.finish(conn, score, shards.Done())
    return batch_id


async def probed(db: Database, pool: Pool, recorded: Recorded, judge: bytes) -> Lease:
    """Bring the held-out items to their dispatch, each as a probe of the cheap model."""
    batch_id = await scored(db, recorded, judge, batches.NewBatch("recorded", pool))
    lease = await claim(db, ShardKey(batch_id, Stage.SELECT, 0))
    chosen = [
        Assignment(n, MODELS[0], 0.5, Decimal("0.001"), probe=True, escalation_chance=0.5)
        for n in range(HELD_OUT)
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


def costs_usd(recorded: Recorded, pool: Pool) -> Any:
    """Return the expected cost of each call to the held-out items."""
    quality, tokens = recorded.quality[:HELD_OUT], recorded.tokens[:HELD_OUT]
    asked = [Job(n, str(n), body_of(item)) for n, item in enumerate(recorded.items[:HELD_OUT])]
    requests = RequestFacts.of(asked)
    return estimate_calls(requests, pool, quality, tokens, NOTHING_KNOWN).cost_usd


def by_the_library(
    recorded: Recorded, judge: AnswerJudge, pool: Pool, price_per_usd: float = PRICE_PER_USD
) -> list[tuple[str, str]]:
    """Return the answering model and the decision for each held-out item, all of them probed."""
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
    shown = Shown(np.ones((HELD_OUT, 1), np.float32), after[:, None, :])
    follow = np.ones((HELD_OUT, 2), np.bool_)
    cost_usd = costs_usd(recorded, pool)
    calls = second_calls(shown, 0, cost_usd, follow, price_per_usd)
    target = calls.models[calls.share.argmax(axis=0), 0]
    return [
        (MODELS[0], "accepted")
        if model == 0
        else (MODELS[0], "kept")
        if number >= HELD_OUT - CAPPED
        else (MODELS[1], "escalated")
        for number, model in enumerate(target)
    ]


@dataclass(frozen=True)
class Fitted:
    """Recorded answers with a judge of the cheap model's, as a checkpoint keeps it."""

    recorded: Recorded
    judge: AnswerJudge
    packed: bytes


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    if not DATA.exists():
        pytest.skip("needs the recorded answers in shared/data")
    return fitted_to(Recorded.read("zeroeval_math_l5", MODELS), tmp_path_factory.mktemp("judge"))


def fitted_to(recorded: Recorded, folder: Path) -> Fitted:
    kept = write_judge(folder, recorded.judge())
    manifest = Manifest(recorded.models, "", "", (), "", "", "", {}, {}, judge=kept)
    write_checkpoint(folder, b"", manifest)
    packed = pack_judge(folder)
    assert packed is not None
    return Fitted(recorded, load_judge(folder), packed)


@asynccontextmanager
async def replayed(recorded: Recorded) -> AsyncIterator[Pool]:
    replay = Replay(recorded.outcomes, recorded.items, recorded.answers.values())
    async with TestServer(application(replay)) as server:
        yield pool_at(str(server.make_url("/v1")), recorded.models)


async def test_answers_are_accepted_escalated_and_kept_as_by_the_library(
    db: Database, fitted: Fitted
) -> None:
    recorded, judge = fitted.recorded, fitted.judge
    async with replayed(recorded) as pool:
        lease = await probed(db, pool, recorded, fitted.packed)
        assert await dispatch(db, lease)
    found = await rows(db, "SELECT model, decision, answer FROM results ORDER BY job_no")
    assert [(model, decision) for model, decision, _ in found] == by_the_library(
        recorded, judge, pool
    )
    assert {decision for _, decision, _ in found} == {"accepted", "escalated", "kept"}
    for item, (model, _, text) in zip(recorded.items[:HELD_OUT], found, strict=True):
        assert text == recorded.answers[item.item_id, model].text


async def test_probes_are_chosen_and_decided_about_as_by_the_library(
    db: Database, fitted: Fitted
) -> None:
    """From the selection on: which items are asked of whom, and what becomes of the answers."""
    recorded, judge = fitted.recorded, fitted.judge
    worth_usd = 1 / PRICE_PER_USD
    async with replayed(recorded) as pool:
        aim = Objective(willingness_to_pay_usd=worth_usd)
        new = batches.NewBatch("recorded", pool, objective=aim)
        batch_id = await scored(db, recorded, fitted.packed, new)
        await select(db, batch_id)
        async with db.transaction() as conn:
            plan = (await batches.get(conn, batch_id)).plan or {}
        wanted = chosen_by_the_library(recorded, judge, pool, worth_usd)
        assigned = "SELECT model, probe FROM assignments ORDER BY job_no"
        assert await rows(db, assigned) == wanted
        assert await dispatch(db, await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0)))
    price = plan["probes"]["threshold_price_per_usd"]
    judged = by_the_library(recorded, judge, pool, price)
    ends = [
        after if probe else (model, "direct")
        for (model, probe), after in zip(wanted, judged, strict=True)
    ]
    assert await rows(db, "SELECT model, decision FROM results ORDER BY job_no") == ends
    assert {decision for _, decision in ends} >= {"accepted", "escalated"}


def chosen_by_the_library(
    recorded: Recorded, judge: AnswerJudge, pool: Pool, worth_usd: float
) -> list[tuple[str, bool]]:
    """Return the model that each held-out item is asked of first, and whether it is a probe."""
    quality, cost_usd = recorded.quality[:HELD_OUT], costs_usd(recorded, pool)
    direct = Problem(quality, cost_usd, willingness_to_pay_usd=worth_usd)

    def follow(some: Any, _probe: int) -> Any:
        return (some < HELD_OUT - CAPPED)[:, None] & np.ones((len(some), 2), np.bool_)

    known = ProbeModel(
        lambda some: judge.judgement_model(MODELS, some).of, (0,), quality, cost_usd, follow
    )
    more, policies = with_policies(direct, known)
    choice = solve(more).choice
    first = policies.first(choice)
    return [(MODELS[model], bool(at >= 2)) for model, at in zip(first, choice, strict=True)]


@pytest.fixture(scope="module")
def fitted_pair(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    if not DATA.exists():
        pytest.skip("needs the recorded answers in shared/data")
    return fitted_to(Recorded.read("zeroeval_cruxeval", COMPARED), tmp_path_factory.mktemp("pair"))


async def test_second_answers_are_planned_and_compared_as_by_the_library(
    db: Database, fitted_pair: Fitted
) -> None:
    """From the selection on: a second answer is planned where dispatch will compare one."""
    recorded, judge = fitted_pair.recorded, fitted_pair.judge
    assert (COMPARED[0], COMPARED[1]) in judge.pairs
    async with replayed(recorded) as pool:
        aim = Objective(willingness_to_pay_usd=1 / COMPARED_PRICE_PER_USD)
        new = batches.NewBatch("recorded", pool, objective=aim)
        batch_id = await scored(db, recorded, fitted_pair.packed, new)
        await select(db, batch_id)
        async with db.transaction() as conn:
            plan = (await batches.get(conn, batch_id)).plan or {}
        chosen = await rows(
            db,
            "SELECT model, probe, escalation_chance, expected_cost_usd::float"
            " FROM assignments ORDER BY job_no",
        )
        assert await dispatch(db, await claim(db, ShardKey(batch_id, Stage.DISPATCH, 0)))
    planned = compared_by_the_library(recorded, judge, pool)
    policies, choice, second = planned
    assert [(model, probe) for model, probe, _, _ in chosen] == [
        (COMPARED[model], bool(at >= len(COMPARED)))
        for model, at in zip(policies.first(choice), choice, strict=True)
    ]
    assert plan["probes"]["compared"] == pytest.approx(
        sum(float(calls.asked.sum()) for _, one in second for calls in one.compared), rel=1e-4
    )
    assert plan["probes"]["compared"] > 1
    for numbers, one in second:
        for job, accepted, usd in zip(numbers, one.accepted, one.cost_usd, strict=True):
            assert chosen[job][2] == pytest.approx(1 - accepted, abs=1e-4)
            assert chosen[job][3] > usd
    ends = {
        job: decided_by_the_library(recorded, judge, pool, job, int(policies.first(choice)[job]))
        for numbers, _ in second
        for job in numbers.tolist()
    }
    found = await rows(
        db,
        "SELECT job_no, model, decision, (SELECT count(*) FROM attempts a"
        " WHERE a.batch_id = r.batch_id AND a.job_no = r.job_no) FROM results r ORDER BY job_no",
    )
    assert {job: tuple(end) for job, *end in found if job in ends} == ends
    assert {calls for *_, calls in ends.values()} == {1, 2, 3}
    assert all(end == "direct" for job, _, end, _ in found if job not in ends)


def comparisons_of(judge: AnswerJudge, cost_usd: Any) -> Comparisons:
    """Return the second answers that may be compared: cheap ones, of jobs without a cap."""

    def may(jobs: Any, first: int, second: int) -> Any:
        rest = [model for model in range(len(COMPARED)) if model not in {first, second}]
        cheap = cost_usd[jobs, second] <= MOST_PRICE_SHARE * cost_usd[jobs][:, rest].max(axis=1)
        return cheap & (jobs < HELD_OUT - CAPPED)

    seconds = {
        COMPARED.index(first): tuple(
            COMPARED.index(second) for one, second in judge.pairs if one == first
        )
        for first, _ in judge.pairs
    }
    return Comparisons(
        lambda first, second, models, shown: judge.pool_agreement(
            COMPARED, (first, second), models, shown
        ),
        may,
        seconds,
    )


def follow_of(recorded: Recorded, pool: Pool) -> Any:
    """Return the rule which models may be asked after a probe: the last items' caps cover both."""
    worst = [[bound_cost_usd(body_of(item), one) for one in pool.models] for item in recorded.items]
    bound = np.array(worst, float)

    def follow(some: Any, probe: int) -> Any:
        both = bound[some] + bound[some, probe][:, None]
        return (some < HELD_OUT - CAPPED)[:, None] | (both <= bound[some][:, [-1]] + 1e-9)

    return follow


def compared_by_the_library(
    recorded: Recorded, judge: AnswerJudge, pool: Pool
) -> tuple[Policies, Any, list[tuple[Any, SecondCalls]]]:
    """Return the policies, each item's choice, and what the policies that are chosen expect."""
    quality, cost_usd = recorded.quality[:HELD_OUT], costs_usd(recorded, pool)
    direct = Problem(quality, cost_usd, willingness_to_pay_usd=1 / COMPARED_PRICE_PER_USD)
    known = ProbeModel(
        lambda some: judge.judgement_model(COMPARED, some).of,
        tuple(COMPARED.index(name) for name in COMPARED if name in judge.probes),
        quality,
        cost_usd,
        follow_of(recorded, pool),
        comparisons=comparisons_of(judge, cost_usd),
    )
    more, policies = with_policies(direct, known)
    choice = solve(more).choice
    known = known.with_seconds(policies.seconds)
    second = [
        (jobs, known.of_jobs(jobs).outcomes(probe).at_price(price))
        for probe, price, jobs in policies.taken(choice)
        if len(jobs)
    ]
    return policies, choice, second


def decided_by_the_library(
    recorded: Recorded, judge: AnswerJudge, pool: Pool, job: int, first: int
) -> tuple[str, str, int]:
    """Return the model whose answer a probed item ends with, how, and after how many calls."""
    cost_usd = costs_usd(recorded, pool)[[job]]
    item, expected = recorded.items[job], recorded.quality[job]
    said = [
        ProbeAnswer(item.prompt, recorded.answers[item.item_id, name].text, expected, 400, "stop")
        for name in COMPARED
    ]
    shown = judge.judge(COMPARED[first], [said[first]])[0]
    price = COMPARED_PRICE_PER_USD
    one = np.ones((1, len(COMPARED)), np.bool_)
    comparisons = comparisons_of(judge, costs_usd(recorded, pool))
    known = ProbeModel(
        lambda _: (
            lambda _probe, models, _rows: Shown(
                np.ones((1, 1), np.float32), shown[None, None, models]
            )
        ),
        (first,),
        expected[None],
        cost_usd,
        lambda some, _: one[some],
        comparisons=replace(
            comparisons, may=lambda _, *both: comparisons.may(np.array([job]), *both)
        ),
    )
    calls = known.of_jobs(np.array([0])).outcomes(first).at_price(price)
    if not calls.compared:
        value = shown - price * cost_usd[0]
        value[first] = -1
        worth = value > shown[first]
        paid = worth & follow_of(recorded, pool)(np.array([job]), first)[0]
        if paid.any():
            return COMPARED[int(np.where(paid, value, -1).argmax())], "escalated", 2
        return COMPARED[first], "kept" if worth.any() else "accepted", 1
    (compared,) = calls.compared
    second = compared.of.column
    both = judge.judge_pair(COMPARED[first], COMPARED[second], [(said[first], said[second])])[0]
    kept = first if both[first] >= both[second] else second
    value = both - price * cost_usd[0]
    value[[first, second]] = -1
    if value.max() > both[kept]:
        return COMPARED[int(value.argmax())], "escalated", 3
    return COMPARED[kept], "accepted", 2
