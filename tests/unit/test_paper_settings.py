"""The paper's table trains on nothing that it holds out."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import benchmarks.paper_settings as paper
from routoo.domain.items import Item
from routoo.domain.tables import Outcomes, write_items, write_outcomes

HELD = [Item(f"h-{n}", f"What is the capital of country {n}?", subject="law") for n in range(4)]
ELSEWHERE = [
    Item("a", "what is the CAPITAL of country 0", subject="law"),
    Item("b", "What is  the capital of country 1 ?", subject="law"),
    Item("c", "What is the capital of country 7?", subject="law"),
]


def write_table(folder: Path, name: str, items: list[Item], sources: list[str] = ()) -> None:
    """Write a data set that two models answered."""
    path = folder / f"{name}_items.parquet"
    write_items(path, items)
    if sources:
        table = pq.read_table(path).append_column("src", pa.array(sources))
        pq.write_table(table, path)
    pairs = [(item.item_id, model) for item in items for model in ("here", "only-there")]
    same = np.ones(len(pairs), np.float32)
    ids, models = [item for item, _ in pairs], [model for _, model in pairs]
    told = Outcomes(ids, models, same, same, same, same.astype(np.float64), same)
    write_outcomes(folder / f"{name}_outcomes.parquet", told)


def setting_of(dataset: str, source: str) -> paper.Setting:
    return paper.Setting(dataset, {}, ("here", "gpt"), (paper.Source(source),))


def test_no_question_that_is_held_out_is_trained_on_however_it_is_written(tmp_path: Path) -> None:
    write_table(tmp_path, "other", ELSEWHERE)
    held = paper.Table(HELD, Outcomes([], [], *(np.empty(0, np.float32),) * 5))
    (table,) = paper.other_data(tmp_path, setting_of("mmlu", "other"), held, ["here"])
    assert [item.prompt for item in table.items] == [ELSEWHERE[2].prompt]
    assert set(zip(table.outcomes.item_ids, table.outcomes.models, strict=True)) == {
        ("other/c", "here")
    }


@pytest.mark.parametrize(("dataset", "kept"), [("mmlu", ["mmlu_pro/b"]), ("gsm", None)])
def test_nothing_that_came_from_mmlu_is_trained_on_where_mmlu_is_held_out(
    tmp_path: Path, dataset: str, kept: list[str] | None
) -> None:
    fresh = [Item(name, f"Question {name}?", subject="law") for name in "abc"]
    write_table(tmp_path, "mmlu_pro", fresh, ["ori_mmlu-law", "theoremQA", "ori_mmlu-virology"])
    held = paper.Table(HELD, Outcomes([], [], *(np.empty(0, np.float32),) * 5))
    (table,) = paper.other_data(tmp_path, setting_of(dataset, "mmlu_pro"), held, ["here"])
    expected = kept or [f"mmlu_pro/{name}" for name in "abc"]
    assert [item.item_id for item in table.items] == expected


@pytest.mark.parametrize("protocol", ["random", "domains"])
def test_a_split_shares_no_text_and_by_domains_no_domain(protocol: str) -> None:
    items = [
        Item(f"{n}{twin}", f"Question {n}?", subject=f"field-{n % 10}")
        for n in range(50)
        for twin in "ab"
    ]
    ids = [item.item_id for item in items]
    same = np.ones(len(ids), np.float32)
    table = paper.Table(items, Outcomes(ids, ["here"] * len(ids), same, same, same, same, same))
    train, held = paper.split(table, protocol, 0)
    assert len(train.items) + len(held.items) == len(items)
    assert not {item.prompt for item in train.items} & {item.prompt for item in held.items}
    assert not set(train.outcomes.item_ids) & set(held.outcomes.item_ids)
    if protocol == "domains":
        assert not {item.subject for item in train.items} & {item.subject for item in held.items}
