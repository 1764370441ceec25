"""Pools of models that complement each other, and `routoo pool`."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from routoo.cli.pool import pool as pool_command
from routoo.domain.pool_file import load_pool
from routoo.errors import ConfigError, InputError
from routoo.selector.pool_choice import GREEDY_SHARE, choose_members, value_answers

SCORES = {
    # b and c together are right everywhere; a is the best alone and adds nothing to them.
    "a": [1, 1, 1, 0, 0, 0],
    "b": [1, 1, 0, 0, 0, 1],
    "c": [0, 0, 1, 1, 1, 0],
}


def _worth(models: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((40, models)) < rng.random(models)).astype(float)


def test_models_that_complement_each_other_beat_the_best_ones() -> None:
    choice = choose_members(np.array(list(SCORES.values()), float).T, 2)
    assert sorted(member.model for member in choice.members) == [1, 2]
    assert choice.worth == pytest.approx(1.0)
    assert choice.exact


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(1, 4), st.integers(0, 1000))
def test_greedy_keeps_its_guarantee_and_its_bound(models: int, size: int, seed: int) -> None:
    size = min(size, models)
    worth = _worth(models, seed)
    pools = map(list, combinations(range(models), size))
    best = max(worth[:, pool].max(axis=1).mean() for pool in pools)
    greedy = choose_members(worth, size, exact=False)
    assert greedy.worth >= GREEDY_SHARE * best - 1e-12
    assert greedy.bound >= best - 1e-12
    assert greedy.share >= GREEDY_SHARE - 1e-12
    assert choose_members(worth, size, exact=True).worth == pytest.approx(best)
    gains = [member.gain for member in greedy.members]
    assert gains == sorted(gains, reverse=True)


def test_price_awareness_prefers_a_cheap_model_that_is_as_good() -> None:
    score = np.array([[1.0, 1.0], [1.0, 1.0]])
    cost = np.array([[0.004, 0.001]] * 2)
    worth = value_answers(score, cost, willingness_to_pay_usd=0.01)
    choice = choose_members(worth, 1)
    assert choice.members[0].model == 1
    assert choice.worth == pytest.approx(0.9)


def test_pools_of_impossible_size_and_answers_of_unknown_cost_are_refused() -> None:
    with pytest.raises(InputError):
        choose_members(_worth(3, 0), 4)
    with pytest.raises(InputError, match="no cost"):
        value_answers(np.ones((1, 1)), np.full((1, 1), np.nan), 1.0)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    ids = [f"q{number}" for number in range(6)]
    tokens = [10, 20, 35, 40, 55, 60]
    rows = [
        {
            "item_id": item,
            "model": model,
            "score": float(scores[at]),
            "prompt_tokens": tokens[at],
            "completion_tokens": 5 + at * at,
            "cost_usd": (0.5 * tokens[at] + 2.0 * (5 + at * at)) / 1e6 if model != "c" else None,
        }
        for model, scores in SCORES.items()
        for at, item in enumerate(ids)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "outcomes.parquet")
    items = [{"item_id": item, "prompt": "?"} for item in ids]
    pq.write_table(pa.Table.from_pylist(items), tmp_path / "items.parquet")
    (tmp_path / "prices.csv").write_text(
        "model,usd_per_mtok_in,usd_per_mtok_out\na,1,2\nb,0.5,2\nc,0,0\nd,,\n"
    )
    return tmp_path


def _choose(tables: Path, *more: str) -> list[str]:
    files = ["--items", f"{tables}/items.parquet", "--outcomes", f"{tables}/outcomes.parquet"]
    return ["choose", *files, "--size", "2", *more]


def test_pool_choose_prints_gains_and_writes_a_pool_that_loads(tables: Path) -> None:
    written = ["--out", f"{tables}/pool.yaml", "--base-url", "http://localhost:9/v1"]
    priced = ["--prices", f"{tables}/prices.csv"]
    done = CliRunner().invoke(pool_command, _choose(tables, *priced, *written, "--json"))
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [member["model"] for member in report["members"]] == ["b", "c"]
    assert sum(member["gain"] for member in report["members"]) == pytest.approx(report["worth"])
    pool = load_pool(tables / "pool.yaml")
    assert pool.names == ("b", "c")
    assert float(pool.models[0].price_usd_per_mtok.prompt) == 0.5


def test_prices_are_read_off_costs_and_an_unknown_one_is_refused(tables: Path) -> None:
    written = ["--out", f"{tables}/pool.yaml", "--base-url", "http://localhost:9/v1"]
    refused = CliRunner().invoke(pool_command, _choose(tables, *written))
    assert isinstance(refused.exception, InputError)
    assert "the price of c is unknown" in str(refused.exception)
    done = CliRunner().invoke(pool_command, _choose(tables, "--exclude", "c", *written))
    assert done.exit_code == 0, done.output
    tariff = load_pool(tables / "pool.yaml").models[0].price_usd_per_mtok
    assert (float(tariff.prompt), float(tariff.completion)) == (0.5, 2.0)


def test_a_price_aware_pool_needs_every_cost(tables: Path) -> None:
    refused = CliRunner().invoke(pool_command, _choose(tables, "--price-aware"))
    assert "answers of c is unknown" in str(refused.exception)
    priced = ["--prices", f"{tables}/prices.csv", "--price-aware"]
    assert CliRunner().invoke(pool_command, _choose(tables, *priced)).exit_code == 0


def test_pool_show_and_check_read_a_pool_and_miss_unset_keys(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tables / "keyed.yaml"
    file.write_text(
        "models:\n- name: m\n  endpoint: {base_url: https://x.test/v1, api_key_env: X_TEST_KEY}\n"
        "  price_usd_per_mtok: {prompt: 1, completion: 2}\n  context_window_tokens: 4096\n"
    )
    assert "m" in CliRunner().invoke(pool_command, ["show", str(file)]).output
    monkeypatch.delenv("X_TEST_KEY", raising=False)
    failed = CliRunner().invoke(pool_command, ["check", str(file)])
    assert isinstance(failed.exception, ConfigError)
    monkeypatch.setenv("X_TEST_KEY", "set")
    assert CliRunner().invoke(pool_command, ["check", "--no-ping", str(file)]).exit_code == 0
