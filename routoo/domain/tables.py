"""Outcome tables: questions (items) and how each candidate model did on them (outcomes).

Items are Parquet or JSONL; outcomes are Parquet in long format, one row an (item, model).
"""

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Float64

from routoo.domain import columns
from routoo.domain.items import Item, item_of_line
from routoo.errors import InputError
from routoo.files import replacing

_LINES = frozenset({".jsonl", ".ndjson", ".json"})

_OPTIONAL_ITEM_COLUMNS = {
    "dataset": pa.string(),
    "subject": pa.string(),
    "answer": pa.string(),
    "grader": pa.string(),
    "grader_options": pa.string(),
    "max_tokens": pa.int64(),
}


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What candidate models scored on items, one entry an (item, model); NaN means not known."""

    item_ids: list[str]
    models: list[str]
    score: Float32[np.ndarray, " rows"]
    """1 = right, in [0, 1]."""
    prompt_tokens: Float32[np.ndarray, " rows"]
    completion_tokens: Float32[np.ndarray, " rows"]
    cost_usd: Float64[np.ndarray, " rows"]
    latency_s: Float32[np.ndarray, " rows"]

    @classmethod
    def joined(cls, parts: Sequence["Outcomes"]) -> "Outcomes":
        """Return the rows of several tables, one after the other."""
        return cls(
            [value for part in parts for value in part.item_ids],
            [value for part in parts for value in part.models],
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.prompt_tokens for part in parts]),
            np.concatenate([part.completion_tokens for part in parts]),
            np.concatenate([part.cost_usd for part in parts]),
            np.concatenate([part.latency_s for part in parts]),
        )

    def select(self, keep: Bool[np.ndarray, " rows"]) -> "Outcomes":
        """Return the rows where `keep` is true."""
        rows = np.flatnonzero(keep)
        return Outcomes(
            [self.item_ids[row] for row in rows],
            [self.models[row] for row in rows],
            self.score[rows],
            self.prompt_tokens[rows],
            self.completion_tokens[rows],
            self.cost_usd[rows],
            self.latency_s[rows],
        )


def read_items(*paths: Path, on_bad: Callable[[InputError], None] | None = None) -> list[Item]:
    """Read item tables, Parquet or JSONL (also OpenAI Batch input), in order.

    Args:
        paths: The files.
        on_bad: Told of each row that is no item, which is then left out; unset, it is an error.

    Raises:
        InputError: A file is unreadable, a column is missing, or (unless `on_bad` takes it) a row
            is no item or has the id of an earlier one.
    """
    items: dict[str, Item] = {}
    for where, read in (row for path in paths for row in _rows(path)):
        try:
            _add(items, read(), where)
        except InputError as error:
            if on_bad is None:
                raise
            on_bad(error)
    return list(items.values())


def read_outcomes(*paths: Path) -> Outcomes:
    """Read outcome tables and join them, one after the other.

    Rows without a score (answers that could not be graded) say nothing and are left out.

    Raises:
        InputError: A file is unreadable, a column is missing, or a row's value is unusable.
    """
    return Outcomes.joined([_read_outcomes_file(path) for path in paths])


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write an item table as Parquet, whole or not at all."""
    rows = [asdict(item) for item in items]
    keys = {"item_id": pa.string(), "prompt": pa.string()}
    schema = pa.schema(keys | _OPTIONAL_ITEM_COLUMNS)
    with replacing(path) as stream:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), stream, compression="zstd")


def write_outcomes(path: Path, outcomes: Outcomes, *, answers: Sequence[str] | None = None) -> None:
    """Write an outcome table as Parquet, unknown numbers as null.

    Args:
        path: The file, replaced whole or not at all.
        outcomes: The rows.
        answers: What the models wrote, a row each; adds a column `answer`.
    """
    numbers = {
        "score": outcomes.score,
        "prompt_tokens": outcomes.prompt_tokens,
        "completion_tokens": outcomes.completion_tokens,
        "cost_usd": outcomes.cost_usd,
        "latency_s": outcomes.latency_s,
    }
    cells: dict[str, Any] = {"item_id": outcomes.item_ids, "model": outcomes.models}
    cells |= {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}
    if answers is not None:
        cells["answer"] = pa.array(answers, pa.string())
    with replacing(path) as stream:
        pq.write_table(pa.table(cells), stream, compression="zstd")


def _add(items: dict[str, Item], item: Item, where: str) -> None:
    if item.item_id in items:
        raise InputError(
            "an item_id comes twice",
            value=item.item_id,
            where=where,
            remedy="Make item_ids unique",
        )
    items[item.item_id] = item


def _rows(path: Path) -> Iterator[tuple[str, Callable[[], Item]]]:
    """Yield where each row stands, and what reads it."""
    if path.suffix.lower() not in _LINES:
        yield from _table_rows(path)
        return
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
    except OSError as error:
        raise InputError("the items can't be read", where=str(path), value=str(error)) from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, partial(item_of_line, line, number, where)


def _table_rows(path: Path) -> Iterator[tuple[str, Callable[[], Item]]]:
    table = columns.read_table(path, required=("item_id", "prompt"))
    optional = [name for name in _OPTIONAL_ITEM_COLUMNS if name in table.column_names]
    cells: list[list[Any]] = [
        columns.ids(path, table, "item_id"),
        columns.texts(path, table, "prompt"),
        *(
            columns.whole_numbers(path, table, name)
            if name == "max_tokens"
            else columns.ids(path, table, name)
            for name in optional
        ),
    ]
    names = ("item_id", "prompt", *optional)
    for number, row in enumerate(zip(*cells, strict=True), 1):
        where = f"{path}, row {number}"
        yield where, partial(_item_of_cells, dict(zip(names, row, strict=True)), where)


def _item_of_cells(row: dict[str, Any], where: str) -> Item:
    for name in ("item_id", "prompt"):
        if row[name] is None:
            raise InputError(f"the row has no {name}", where=where)
    return Item(**row)


def _read_outcomes_file(path: Path) -> Outcomes:
    table = columns.read_table(path, required=("item_id", "model", "score"))
    names = {name: columns.ids(path, table, name) for name in ("item_id", "model")}
    for name, values in names.items():
        bad = np.array([value is None for value in values], np.bool_)
        columns.refuse(path, name, values, bad, "is missing")
    graded = columns.known(table, "score")
    score = columns.numbers(path, table, "score", np.float32)
    columns.refuse(path, "score", score, graded & ~(score <= 1), "is outside [0, 1]")
    everything = Outcomes(
        [str(value) for value in names["item_id"]],
        [str(value) for value in names["model"]],
        score,
        columns.numbers(path, table, "prompt_tokens", np.float32),
        columns.numbers(path, table, "completion_tokens", np.float32),
        columns.numbers(path, table, "cost_usd", np.float64),
        columns.numbers(path, table, "latency_s", np.float32),
    )
    return everything if graded.all() else everything.select(graded)
