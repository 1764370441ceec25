"""Item and outcome tables as people write them."""

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from routoo.domain.items import Item
from routoo.domain.tables import (
    Outcomes,
    read_answers,
    read_items,
    read_outcomes,
    write_items,
    write_outcomes,
)
from routoo.errors import InputError
from routoo.training.tables import read_tables


def test_items_are_read_from_batch_input_lines(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    body = '{"messages": [{"role": "user", "content": "Why?"}]}'
    path.write_text(f'{{"custom_id": "x", "body": {body}}}\n\n{{"prompt": "Who?"}}\n')
    assert [(item.item_id, item.prompt) for item in read_items(path)] == [
        ("x", "Why?"),
        ("3", "Who?"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no prompt"),
        ('{"prompt": 5}', "no prompt"),
        ('{"body": {}}', "no prompt"),
        ('{"body": {"messages": "Who?"}}', "no list of messages"),
        ('{"body": {"messages": []}}', "no list of messages"),
        ('{"body": {"messages": [5]}}', "no list of messages"),
        ('{"body": {"messages": [{"role": "user"}]}}', "no list of messages"),
        ('{"prompt": "Why?", "item_id": ""}', "neither text nor a whole number"),
        ('{"prompt": "Why?", "item_id": false}', "neither text nor a whole number"),
        ('{"prompt": "Why?", "max_tokens": 0}', "no whole number above 0"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "i.jsonl"
    path.write_text(f'{{"prompt": "Who?"}}\n{line}\n')
    with pytest.raises(InputError, match=f"i.jsonl:2: .*{said}"):
        read_items(path)


def test_an_item_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    write_items(tmp_path / "i.parquet", [Item("1", "one"), Item("1", "uno")])
    with pytest.raises(InputError, match="twice"):
        read_items(tmp_path / "i.parquet")


def test_rows_that_are_no_items_can_be_left_out_one_by_one(tmp_path: Path) -> None:
    path, bad = tmp_path / "i.jsonl", list[InputError]()
    path.write_text(
        '{"prompt": "one"}\nnonsense\n{"prompt": "two", "item_id": "1"}\n{"prompt": "3"}'
    )
    assert [item.prompt for item in read_items(path, on_bad=bad.append)] == ["one", "3"]
    assert [str(error).partition(": ")[0] for error in bad] == [f"{path}:2", f"{path}:3"]


def test_whole_numbers_are_ids_the_same_in_every_table(tmp_path: Path) -> None:
    (tmp_path / "i.jsonl").write_text('{"prompt": "zero", "item_id": 0}\n{"prompt": "x"}')
    numbers = {"item_id": [0, 2], "prompt": ["zero", "x"]}
    pq.write_table(pa.table(numbers), tmp_path / "i.parquet")
    scores = {"item_id": [0, 2], "model": ["m", "m"], "score": [1, 0]}
    pq.write_table(pa.table(scores), tmp_path / "o.parquet")
    assert [item.item_id for item in read_items(tmp_path / "i.jsonl")] == ["0", "2"]
    assert [item.item_id for item in read_items(tmp_path / "i.parquet")] == ["0", "2"]
    assert read_outcomes(tmp_path / "o.parquet").item_ids == ["0", "2"]


def test_lone_surrogates_are_replaced_and_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    lines = [json.dumps({"prompt": text}) for text in ("a \ud800 b", "\N{GRINNING FACE}")]
    path.write_bytes(codecs.BOM_UTF8 + "\n".join(lines).encode())
    assert [item.prompt for item in read_items(path)] == ["a \ufffd b", "\N{GRINNING FACE}"]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"prompt": [1, 2]}, r"column prompt is not of text \(got 'int64'\)"),
        ({"prompt": [["a"], ["b"]]}, "column prompt is not of text"),
        ({"prompt": ["a", None]}, "row 2: the row has no prompt"),
        ({"item_id": [None, "b"]}, "row 1: the row has no item_id"),
        ({"item_id": [0.5, 1.5]}, "column item_id is not of text or whole numbers"),
        ({"max_tokens": ["many", "few"]}, "column max_tokens is not of whole numbers"),
    ],
)
def test_a_cell_that_is_no_part_of_an_item_is_named(
    tmp_path: Path, cells: dict[str, list[Any]], said: str
) -> None:
    whole = {"item_id": ["a", "b"], "prompt": ["one", "two"]}
    pq.write_table(pa.table(whole | cells), tmp_path / "i.parquet")
    with pytest.raises(InputError, match=rf"i\.parquet.*{said}"):
        read_items(tmp_path / "i.parquet")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"score": [None, 0.5, 1.5]}, r"row 3: the score is outside \[0, 1\] \(got 1\.5\)"),
        ({"score": [-1.0, -2.0, 1.0]}, "row 1: the score .*, here and in 1 more rows"),
        ({"score": [float("nan"), 1.0, 1.0]}, "row 1: the score is outside"),
        ({"score": ["right", "wrong", "right"]}, "column score is not of numbers"),
        ({"item_id": ["a", None, "b"]}, "row 2: the item_id is missing"),
        ({"model": ["m", "m", None]}, "row 3: the model is missing"),
        ({"cost_usd": [0.1, -0.1, 0.1]}, "row 2: the cost_usd is below 0 or endless"),
        ({"completion_tokens": ["many", "few", "many"]}, "completion_tokens is not of numbers"),
    ],
)
def test_a_cell_that_is_no_part_of_an_outcome_is_named(
    tmp_path: Path, cells: dict[str, list[Any]], said: str
) -> None:
    whole = {"item_id": ["a", "b", "c"], "model": ["m"] * 3, "score": [0.0, 0.5, 1.0]}
    pq.write_table(pa.table(whole | cells), tmp_path / "o.parquet")
    with pytest.raises(InputError, match=rf"o\.parquet.*{said}"):
        read_outcomes(tmp_path / "o.parquet")


def test_answers_without_a_grade_are_left_out(tmp_path: Path) -> None:
    rows = {"item_id": ["a", "b"], "model": ["m", "m"], "score": [None, 1.0], "cost_usd": [1, 2]}
    pq.write_table(pa.table(rows), tmp_path / "o.parquet")
    found = read_outcomes(tmp_path / "o.parquet")
    assert (found.item_ids, found.cost_usd.tolist()) == (["b"], [2.0])


def test_a_file_that_is_not_there_or_no_table_is_named_with_what_can_be_read(
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        read_outcomes(tmp_path / "none.parquet")
    (tmp_path / "i.csv").write_text("item_id,prompt\n1,Why?\n")
    with pytest.raises(InputError, match=r"Items are Parquet or JSON lines"):
        read_items(tmp_path / "i.csv")


def test_a_table_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_items(tmp_path / "i.parquet", [Item("1", "one")])

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="No space"):
        write_items(tmp_path / "i.parquet", [Item("2", "two")])
    assert [item.item_id for item in read_items(tmp_path / "i.parquet")] == ["1"]
    assert [path.name for path in tmp_path.iterdir()] == ["i.parquet"]


def test_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    items = [Item("1", "one", subject="s", answer="A"), Item("2", "two\x00\N{GRINNING FACE}")]
    nothing = np.full(2, np.nan, np.float32)
    score, cost_usd = np.array([1, 0.25], np.float32), np.array([0.5, np.nan])
    outcomes = Outcomes(["1", "2"], ["a", "a"], score, nothing, nothing, cost_usd, nothing)
    write_items(tmp_path / "i.parquet", items)
    write_outcomes(tmp_path / "o.parquet", outcomes)
    assert read_items(tmp_path / "i.parquet") == items
    again = read_outcomes(tmp_path / "o.parquet")
    assert (again.item_ids, again.models) == (outcomes.item_ids, outcomes.models)
    np.testing.assert_array_equal(again.score, outcomes.score)
    np.testing.assert_array_equal(again.cost_usd, cost_usd)


@pytest.mark.parametrize("damaged", [b"item_id", b"a text"])
def test_a_table_whose_names_or_texts_are_damaged_is_refused(
    tmp_path: Path, damaged: bytes
) -> None:
    path = tmp_path / "t.parquet"
    cells = {name: ["a text"] for name in ("item_id", "model", "answer", "prompt")}
    pq.write_table(pa.table({**cells, "score": [1.0]}), path, compression="none")
    path.write_bytes(path.read_bytes().replace(damaged, b"\xff" + damaged[1:]))
    for read in (read_items, read_answers, read_outcomes):
        with pytest.raises(InputError, match=path.name):
            read(path)


def test_answers_are_not_read_without_the_items_that_they_are_to(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({name: ["a"] for name in ("item_id", "model", "answer")}), path)
    with pytest.raises(InputError, match="no items"):
        read_tables((), (), (path,))
