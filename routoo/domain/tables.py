"""Outcome tables: questions (items) and how each candidate model did on them (outcomes).

Items are Parquet or JSONL; outcomes are Parquet in long format, one row an (item, model).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Float64
from numpy.typing import DTypeLike

from routoo.domain.prompt import prompt_text
from routoo.errors import InputError

_OPTIONAL_ITEM_COLUMNS = {
    "dataset": pa.string(),
    "subject": pa.string(),
    "answer": pa.string(),
    "grader": pa.string(),
    "grader_options": pa.string(),
    "max_tokens": pa.int64(),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One question of an outcome table."""

    item_id: str
    """Unique over the tables that are read together."""
    prompt: str
    """What a router sees."""
    dataset: str | None = None
    subject: str | None = None
    """Domain of the question, where known."""
    answer: str | None = None
    """Reference answer, where there is one."""
    grader: str | None = None
    """Name of the grader that fits the reference, where known."""
    grader_options: str | None = None
    """The grader's options, a JSON object."""
    max_tokens: int | None = None
    """Most tokens that an answer needs, where known."""


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


def read_items(*paths: Path) -> list[Item]:
    """Read item tables, Parquet or JSONL (also OpenAI Batch input), in order.

    Raises:
        InputError: A file is unreadable, a column or field is missing, or an item_id comes twice.
    """
    items = [item for path in paths for item in _read_items_file(path)]
    seen: set[str] = set()
    for item in items:
        if item.item_id in seen:
            raise InputError(
                "an item_id comes twice", value=item.item_id, remedy="Make item_ids unique"
            )
        seen.add(item.item_id)
    return items


def read_outcomes(*paths: Path) -> Outcomes:
    """Read outcome tables and join them, one after the other.

    Rows without a score (answers that could not be graded) say nothing and are left out.

    Raises:
        InputError: A file is unreadable, a column is missing, or a score is outside [0, 1].
    """
    tables = [_read_parquet(path, required=("item_id", "model", "score")) for path in paths]
    tables = [table.filter(pc.is_valid(table["score"])) for table in tables]
    for path, table in zip(paths, tables, strict=True):
        _check_scores(path, _floats(table, "score", np.float32))
    return Outcomes(
        [value for table in tables for value in table["item_id"].to_pylist()],
        [value for table in tables for value in table["model"].to_pylist()],
        _joined(tables, "score", np.float32),
        _joined(tables, "prompt_tokens", np.float32),
        _joined(tables, "completion_tokens", np.float32),
        _joined(tables, "cost_usd", np.float64),
        _joined(tables, "latency_s", np.float32),
    )


def write_items(path: Path, items: Sequence[Item]) -> None:
    """Write an item table as Parquet."""
    rows = [asdict(item) for item in items]
    keys = {"item_id": pa.string(), "prompt": pa.string()}
    schema = pa.schema(keys | _OPTIONAL_ITEM_COLUMNS)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


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
    columns: dict[str, Any] = {"item_id": outcomes.item_ids, "model": outcomes.models}
    columns |= {name: pa.array(values, from_pandas=True) for name, values in numbers.items()}
    if answers is not None:
        columns["answer"] = pa.array(answers, pa.string())
    part = path.with_name(f"{path.name}.part")
    pq.write_table(pa.table(columns), part, compression="zstd")
    part.replace(path)


def _read_items_file(path: Path) -> list[Item]:
    if path.suffix in {".jsonl", ".ndjson", ".json"}:
        return _read_jsonl(path)
    table = _read_parquet(path, required=("item_id", "prompt"))
    columns = [name for name in _OPTIONAL_ITEM_COLUMNS if name in table.column_names]
    rows = table.select(["item_id", "prompt", *columns]).to_pylist()
    return [Item(**row) for row in rows]


def _read_jsonl(path: Path) -> list[Item]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InputError("the items can't be read", where=str(path), value=str(error)) from error
    return [_item(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _item(path: Path, number: int, line: bytes) -> Item:
    where = f"{path}:{number}"
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError("the line is not JSON", where=where, value=str(error)) from error
    if not isinstance(row, Mapping):
        raise InputError("the line is not a JSON object", where=where)
    return item_of(row, number, where)


def item_of(row: Mapping[str, Any], number: int, where: str) -> Item:
    """Return the item that a row of a file describes.

    Args:
        row: Its fields.
        number: Its position, which names it where it has no id.
        where: File and line, for messages.

    Raises:
        InputError: A field is missing or unusable.
    """
    prompt = row.get("prompt")
    if prompt is None and isinstance(row.get("body"), Mapping):
        prompt = prompt_text(row["body"])
    if not isinstance(prompt, str):
        raise InputError("the row has no prompt", where=where, remedy="Give prompt or body")
    item_id = row.get("item_id") or row.get("custom_id") or str(number)
    return Item(str(item_id), prompt, **_optional(row, where))


def _optional(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    limit = row.get("max_tokens")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InputError("max_tokens is no whole number above 0", where=where, value=limit)
    options = row.get("grader_options")
    found = {name: row.get(name) for name in ("dataset", "subject", "grader")}
    found["answer"] = row.get("answer", row.get("reference"))
    texts = {name: None if value is None else str(value) for name, value in found.items()}
    shown = orjson.dumps(options).decode() if isinstance(options, Mapping) else options
    return {**texts, "max_tokens": limit, "grader_options": shown}


def _read_parquet(path: Path, *, required: Sequence[str]) -> pa.Table:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError("the table can't be read", where=str(path), value=str(error)) from error
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise InputError(
            f"the table has no column {', '.join(missing)}",
            where=str(path),
            remedy=f"It needs at least the columns {', '.join(required)}",
        )
    return table


def _check_scores(path: Path, score: Float32[np.ndarray, " rows"]) -> None:
    bad = np.flatnonzero(~((score >= 0) & (score <= 1)))
    if len(bad):
        raise InputError(
            "a score is outside [0, 1]",
            value=float(score[bad[0]]),
            where=f"{path}, row {int(bad[0])}",
            remedy="Scale scores to [0, 1] and drop rows without one",
        )


def _floats(table: pa.Table, column: str, dtype: DTypeLike) -> np.ndarray[Any, Any]:
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan, dtype=dtype)
    values = table[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(values, dtype=dtype)


def _joined(tables: Sequence[pa.Table], column: str, dtype: DTypeLike) -> np.ndarray[Any, Any]:
    return np.concatenate([_floats(table, column, dtype) for table in tables])
