"""Graded answers become outcomes, evaluation items never train, and no worse checkpoint is used."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from routoo.console.output import ConsoleFeedback
from routoo.domain.items import Item
from routoo.domain.tables import read_answers, read_items
from routoo.evaluation.bootstrap import MeanInterval
from routoo.evaluation_runs.load import GradedOutcomes, load_graded_outcomes
from routoo.judge.files import load_judge
from routoo.settings import load_settings
from routoo.store import checkpoints
from routoo.store.database import Database
from routoo.store.evaluation.eval_sets import Purpose
from routoo.training import train
from tests.run_factory import graded, questions
from tests.warm_commands import warm_command

pytestmark = pytest.mark.anyio
SECRET = Item("secret", "What is it?", answer="7")


async def loaded(db: Database) -> GradedOutcomes:
    async with db.transaction() as conn:
        return await load_graded_outcomes(conn)


async def test_graded_answers_are_outcomes_and_evaluation_items_stand_apart(db: Database) -> None:
    await graded(db, "practice", Purpose.TRAINING, [*questions(2), SECRET])
    assert len((await loaded(db)).training.items) == 3
    # The same words in other clothes: the item is held out from now on, whoever asked it.
    await graded(db, "exam", Purpose.EVALUATION, [Item("e", "WHAT is it", answer="7")])
    found = await loaded(db)
    assert {item.prompt for item in found.training.items} == {"Say 0.", "Say 1."}
    assert len(found.evaluation.items) == 1
    outcomes = found.training.outcomes
    scores = dict(
        zip(
            zip(outcomes.item_ids, outcomes.models, strict=True),
            outcomes.score.tolist(),
            strict=True,
        )
    )
    assert len(scores) == 4
    assert {(model, score) for (_, model), score in scores.items()} == {("small", 0), ("large", 1)}
    assert {item.subject for item in found.training.items} == {"field-0", "field-1"}
    said = {(one.item_id, one.model): one.text for one in found.training.answers}
    assert said.keys() == scores.keys()
    assert {text for (_, model), text in said.items() if model == "small"} == {"x"}
    assert {text for (_, model), text in said.items() if model == "large"} == {"0", "1"}
    assert {one.text for one in found.evaluation.answers} == {"x", "7"}


async def test_graded_answers_keep_their_own_cost_how_they_ended_and_their_probabilities(
    db: Database,
) -> None:
    """An answer that was asked for after another one costs its own call."""
    await graded(db, "practice", Purpose.TRAINING, questions(2))
    async with db.transaction() as conn:
        await conn.execute(
            "UPDATE results SET cost_usd = 0.5, decision = 'escalated', finish_reason = 'length'"
            " WHERE model = 'large'"
        )
        await conn.execute(
            'UPDATE attempts SET token_probabilities = \'{"mean": -0.5, "minimum": -2,'
            ' "quantile_05": -2, "quantile_25": -1, "median": -0.25, "margin": null}\''
            " WHERE model = 'small'"
        )
    tables = (await loaded(db)).training
    assert tables.outcomes.cost_usd.tolist() == [pytest.approx(0.01)] * 4
    for one in tables.answers:
        summary = one.token_probabilities
        assert (one.finish_reason, summary is None) == (
            ("length", True) if one.model == "large" else (None, False)
        )
        assert summary is None or (summary.mean, math.isnan(summary.margin)) == (-0.5, True)


def routoo(url: str, home: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    variables = {"ROUTOO_DATABASE_URL": url, "ROUTOO_HOME": str(home), "OMP_NUM_THREADS": "1"}
    words = list(map(str, arguments))
    return warm_command("routoo", words).run(words, environ=os.environ | variables)


async def test_a_predictor_is_trained_from_runs_without_an_evaluation_item(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    items = [
        Item(f"i-{n}", f"{'Prove' if n % 2 else 'Name'} {n}", answer=str(n)) for n in range(30)
    ]
    await graded(db, "practice", Purpose.TRAINING, items)
    await graded(db, "exam", Purpose.EVALUATION, items[:3])
    paths = ("--items", tmp_path / "items.parquet", "--outcomes", tmp_path / "outcomes.parquet")
    done = routoo(database_url, tmp_path, "outcomes", "export", *paths, "--json")
    assert json.loads(done.stdout) == {
        "items": 27,
        "outcomes": 54,
        "evaluation_items_left_out": 3,
    }
    assert not {item.prompt for item in read_items(tmp_path / "items.parquet")} & {"Name 0"}
    done = routoo(database_url, tmp_path, "train", "--from-runs", "--out", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert "3 evaluation items are kept out" in done.stderr
    manifest = json.loads((tmp_path / "new" / "manifest.json").read_text())
    assert (manifest["models"], manifest["metrics"]["items"]) == (["large", "small"], 27)
    async with db.transaction() as conn:
        assert len(await checkpoints.list_all(conn)) == 1
        assert await checkpoints.promoted(conn) is None  # three items are too few to judge it
    before = (tmp_path / "new" / "manifest.json").read_bytes()
    again = routoo(database_url, tmp_path, "train", "--from-runs", "--out", tmp_path / "new")
    assert again.returncode != 0
    assert "registered or in use" in again.stderr
    assert (tmp_path / "new" / "manifest.json").read_bytes() == before


async def test_answers_that_were_graded_train_a_judge(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    items = [Item(f"i-{n}", f"Name {n}", answer=str(n)) for n in range(240)]

    def answer(model: str, prompt: str) -> str:
        number = int(prompt.split()[1])
        if model == "large":
            return str(number if number % 8 else 0)
        return str(number) if number % 2 else f"I am not sure, perhaps {number + 1}"

    await graded(db, "practice", Purpose.TRAINING, items, answer)
    await graded(db, "exam", Purpose.EVALUATION, items[:3], answer)
    names = ("items", "outcomes", "answers")
    paths = [part for name in names for part in (f"--{name}", tmp_path / f"{name}.parquet")]
    assert routoo(database_url, tmp_path, "outcomes", "export", *paths).returncode == 0
    written = read_answers(tmp_path / "answers.parquet")
    assert len(written) == 2 * 237
    assert "I am not sure, perhaps 5" in {one.text for one in written}
    train = ("train", "--from-runs", "--no-curve", "--out", tmp_path / "new", "--json")
    done = routoo(database_url, tmp_path, *train)
    assert done.returncode == 0, done.stderr
    judged = json.loads(done.stdout)["judged"]["small"]
    assert judged["answers"] == 237
    assert judged["with_answer"]["auc"] > max(judged["from_prompt"]["auc"], 0.95)
    assert load_judge(tmp_path / "new").probes


@pytest.mark.parametrize(
    ("rise", "in_use"),
    [
        (MeanInterval(-0.01, -0.02, 0.0, 50), True),
        (MeanInterval(0.01, -0.01, 0.03, 50), True),
        (MeanInterval(0.02, 0.01, 0.03, 50), False),
        (MeanInterval(-0.5, -0.6, -0.4, 5), False),
        (None, False),
    ],
)
async def test_only_a_checkpoint_that_is_not_worse_is_put_into_use(
    db: Database, monkeypatch: pytest.MonkeyPatch, rise: Any, in_use: Any
) -> None:
    monkeypatch.setattr(train, "compare_checkpoints", lambda *_: rise)
    example = Path(__file__).parents[2] / "examples" / "checkpoint"
    arguments = (example, load_settings(), "cpu", ConsoleFeedback())
    assert await train.promote_if_not_worse(db, *arguments) is in_use
