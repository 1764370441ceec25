"""Answers through the command line: a judge is trained of them, and a cascade is evaluated."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from routoo.cli.main import app
from routoo.domain.items import Item
from routoo.domain.tables import Outcomes, read_outcomes, write_items, write_outcomes
from routoo.errors import InputError
from routoo.evaluation.scorecard import JUDGED
from routoo.judge.files import load_judge

COUNT = 240


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _write_tables(folder: Path) -> None:
    """Write questions that the weak model answers hesitantly where it is wrong."""
    generator = np.random.default_rng(0)
    right = generator.random(COUNT) < 0.5
    hesitates = generator.random(COUNT) < np.where(right, 0.1, 0.9)
    write_items(folder / "i.parquet", [Item(str(n), f"Is {n} odd?") for n in range(COUNT)])
    ids = [str(n) for n in range(COUNT)]
    unknown = np.full(2 * COUNT, np.nan, np.float32)
    score = np.concatenate([right, generator.random(COUNT) < 0.9]).astype(np.float32)
    models = ["weak"] * COUNT + ["strong"] * COUNT
    cost = np.repeat([0.001, 0.01], COUNT)
    outcomes = Outcomes(ids * 2, models, score, unknown, unknown, cost, unknown)
    write_outcomes(folder / "o.parquet", outcomes)
    texts = ["Perhaps it is, I am unsure. Answer: yes" if h else "Answer: yes" for h in hesitates]
    answers = {"item_id": ids, "model": ["weak"] * COUNT, "answer": texts}
    pq.write_table(pa.table(answers), folder / "a.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    _write_tables(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROUTOO_HOME", str(folder))
        _run(
            "train", "--out", str(folder / "ck"), *_tables(folder), *_answers(folder), "--no-curve"
        )
    return folder


def _tables(folder: Path) -> tuple[str, ...]:
    return ("--items", str(folder / "i.parquet"), "--outcomes", str(folder / "o.parquet"))


def _answers(folder: Path) -> tuple[str, ...]:
    return ("--answers", str(folder / "a.parquet"))


def test_a_judge_is_trained_of_the_answers(folder: Path) -> None:
    judge = load_judge(folder / "ck")
    assert judge.probes == ("weak",)
    figures = judge.figures["weak"]
    assert figures["with_answer"]["auc"] > figures["from_prompt"]["auc"] + 0.2


def test_a_cascade_is_evaluated_and_its_decisions_are_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUTOO_HOME", str(folder))
    decisions = folder / "d.parquet"
    asked = ("--checkpoint", str(folder / "ck"), *_tables(folder), *_answers(folder))
    pool = ("--model", "weak", "--model", "strong", "--decisions", str(decisions))
    report = json.loads(_run("evaluate", "--json", *asked, *pool))["cascade"]
    assert report["cascade_gain"]["low"] > 0
    assert report["judgements"][0]["auc_after"] > 0.85
    rows = pq.read_table(decisions).to_pylist()
    assert len(rows) == 25 * COUNT
    budgets = sorted({row["budget_usd_per_item"] for row in rows})
    assert (budgets[0], budgets[-1]) == pytest.approx((0.001, 0.01))
    for budget in budgets:
        spent = [row["cost_usd"] for row in rows if row["budget_usd_per_item"] == budget]
        assert np.mean(spent) <= budget * (1 + 1e-6)
    assert all(row["accepted"] == (row["first_model"] == row["final_model"]) for row in rows)
    assert "probe, then decide" in _run("evaluate", *asked)


def test_decisions_look_at_no_score(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTOO_HOME", str(folder))
    whole = read_outcomes(folder / "o.parquet")
    shuffled = np.random.default_rng(1).permutation(whole.score)
    write_outcomes(folder / "shuffled.parquet", replace(whole, score=shuffled))
    asked = ("evaluate", "--checkpoint", str(folder / "ck"), *_answers(folder))
    items = ("--items", str(folder / "i.parquet"))
    found = []
    for name in ("o", "shuffled"):
        path = folder / f"{name}-decisions.parquet"
        outcomes = ("--outcomes", str(folder / f"{name}.parquet"))
        _run(*asked, *items, *outcomes, "--decisions", str(path))
        found.append(pq.read_table(path))
    assert found[0].equals(found[1])
    assert not pc.all(found[0]["accepted"]).as_py()


def test_the_page_shows_both_policies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTOO_HOME", str(folder))
    asked = ("--checkpoint", str(folder / "ck"), *_tables(folder), *_answers(folder))
    page = folder / "page.html"
    report = json.loads(_run("evaluate", "--json", *asked))
    assert report["pool"]["frontiers"][JUDGED]["gain"]["value"] == pytest.approx(
        report["cascade"]["cascade_gain"]["value"], abs=1e-6
    )
    _run("evaluate", "--html", str(page), *asked)
    for shown in (JUDGED, "Probe, then decide", "How good judgements are", "recall"):
        assert shown in page.read_text()


def test_decisions_need_answers_and_a_checkpoint(folder: Path) -> None:
    asked = ("evaluate", *_tables(folder))
    with pytest.raises(InputError, match="no answers to decide by"):
        _run(*asked, "--checkpoint", str(folder / "ck"), "--decisions", str(folder / "d.parquet"))
    with pytest.raises(InputError, match="judged by a checkpoint"):
        _run(*asked, *_answers(folder), "--protocol", "random")
