"""Reads and writes tables of items (questions) and outcomes (how each model answered them).

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
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Float64
from numpy.typing import DTypeLike

from routoo.domain.completion import TOKEN_FIGURES, RecordedAnswer, TokenProbabilities
from routoo.domain.items import Item, item_of_line
from routoo.errors import InputError
from routoo.files import replacing

_LINES = frozenset({".jsonl", ".ndjson", ".json"})

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
_NUMBERS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_null)

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


@dataclass(frozen=True, slots=True)
class OutcomeTables:
    """Items, the outcomes of candidate models on them, and what these models answered."""

    items: tuple[Item, ...]
    outcomes: Outcomes
    answers: tuple[RecordedAnswer, ...] = ()
    """As far as they are known; of a pair that comes twice the later one counts."""


def read_items(*paths: Path, on_bad: Callable[[InputError], None] | None = None) -> list[Item]:
    """Read item tables, Parquet or JSONL (also OpenAI Batch input), in order.

    Args:
        paths: The files.
        on_bad: Called with the error of each unusable row, which is left out; unset, it is raised.

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

    Rows without a score (answers that could not be graded) are left out.

    Raises:
        InputError: A file is unreadable, a column is missing, or a row's value is unusable.
    """
    return Outcomes.joined([_read_outcomes_file(path) for path in paths])


def read_answers(*paths: Path) -> list[RecordedAnswer]:
    """Read tables of recorded answers: `item_id`, `model`, `answer`, and what else is known.

    Optional columns are `finish_reason` and the figures of `TokenProbabilities`, each as
    `logprob_NAME`. Where a pair of item and model comes twice, the later row counts.

    Raises:
        InputError: A file is unreadable, a column is missing, or a row's value is unusable.
    """
    rows = [row for path in paths for row in _read_answers_file(path)]
    return list({(row.item_id, row.model): row for row in rows}.values())


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
    """Yield the position of each row, and a function that reads it."""
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
    table = _read_table(path, required=("item_id", "prompt"))
    optional = [name for name in _OPTIONAL_ITEM_COLUMNS if name in table.column_names]
    cells: list[list[Any]] = [
        _ids(path, table, "item_id"),
        _texts(path, table, "prompt"),
        *(
            _whole_numbers(path, table, name) if name == "max_tokens" else _ids(path, table, name)
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
    table = _read_table(path, required=("item_id", "model", "score"))
    names = {name: _ids(path, table, name) for name in ("item_id", "model")}
    for name, values in names.items():
        bad = np.array([value is None for value in values], np.bool_)
        _refuse(path, name, values, bad, "is missing")
    graded = _known(table, "score")
    score = _numbers(path, table, "score", np.float32)
    _refuse(path, "score", score, graded & ~(score <= 1), "is outside [0, 1]")
    everything = Outcomes(
        [str(value) for value in names["item_id"]],
        [str(value) for value in names["model"]],
        score,
        _numbers(path, table, "prompt_tokens", np.float32),
        _numbers(path, table, "completion_tokens", np.float32),
        _numbers(path, table, "cost_usd", np.float64),
        _numbers(path, table, "latency_s", np.float32),
    )
    return everything if graded.all() else everything.select(graded)


def _read_answers_file(path: Path) -> list[RecordedAnswer]:
    table = _read_table(path, required=("item_id", "model", "answer"))
    item_ids, models = _ids(path, table, "item_id"), _ids(path, table, "model")
    texts, reasons = _texts(path, table, "answer"), _optional_texts(path, table, "finish_reason")
    for name, values in (("item_id", item_ids), ("model", models)):
        bad = np.array([value is None for value in values], np.bool_)
        _refuse(path, name, values, bad, "is missing")
    figures = [
        _numbers(path, table, f"logprob_{name}", np.float64, signed=True) for name in TOKEN_FIGURES
    ]
    summaries = [_token_probabilities(values) for values in zip(*figures, strict=True)]
    rows = zip(item_ids, models, texts, reasons, summaries, strict=True)
    return [
        RecordedAnswer(str(item_id), str(model), text or "", reason, summary)
        for item_id, model, text, reason, summary in rows
    ]


def _token_probabilities(values: tuple[float, ...]) -> TokenProbabilities | None:
    """Return the summary; None where a figure is unknown that every summary has."""
    summary = TokenProbabilities(*map(float, values))
    return summary if summary.is_summary else None


def _read_table(path: Path, *, required: Sequence[str]) -> pa.Table:
    """Read a table that has at least these columns.

    Raises:
        InputError: It is no Parquet file, can't be read, or has no such column.
    """
    try:
        table = pq.read_table(path)
        names = table.column_names
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=str(path)) from error
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise InputError(
            "the table can't be read",
            where=str(path),
            value=str(error),
            remedy="Items are Parquet or JSON lines (.jsonl, .ndjson, .json), outcomes Parquet",
        ) from error
    missing = [name for name in required if name not in names]
    if missing:
        raise InputError(
            f"the table has no column {', '.join(missing)}",
            where=str(path),
            remedy=f"It needs at least the columns {', '.join(required)}",
        )
    return table


def _ids(path: Path, table: pa.Table, column: str) -> list[str | None]:
    """Return a column of ids, whole numbers as their digits; null is None.

    Raises:
        InputError: The column holds something else.
    """
    if pa.types.is_integer(_kind(table, column)):
        return list(table[column].cast(pa.string()).to_pylist())
    return _texts(path, table, column, needed="text or whole numbers")


def _texts(path: Path, table: pa.Table, column: str, *, needed: str = "text") -> list[str | None]:
    """Return a column of texts; null is None.

    Raises:
        InputError: The column holds something else.
    """
    kind = _kind(table, column)
    if not any(is_kind(kind) for is_kind in _TEXT):
        raise _wrong_kind(path, table, column, needed)
    try:
        return list(table[column].cast(pa.string()).to_pylist())
    except UnicodeDecodeError as error:  # Parquet doesn't check its texts
        raise _wrong_kind(path, table, column, "UTF-8 text") from error


def _optional_texts(path: Path, table: pa.Table, column: str) -> list[str | None]:
    """Return a column of texts; null is None, as all of it is where there is no such column."""
    known = column in table.column_names
    return _texts(path, table, column) if known else [None] * table.num_rows


def _whole_numbers(path: Path, table: pa.Table, column: str) -> list[int | None]:
    """Return a column of whole numbers; null is None.

    Raises:
        InputError: The column holds something else.
    """
    try:
        return list(table[column].cast(pa.int64()).to_pylist())
    except pa.ArrowException as error:
        raise _wrong_kind(path, table, column, "whole numbers") from error


def _numbers(
    path: Path, table: pa.Table, column: str, dtype: DTypeLike, *, signed: bool = False
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a column of numbers; NaN where it is null, or there is no such column.

    Args:
        path: The file.
        table: Its content.
        column: Name of the column.
        dtype: What to return.
        signed: Whether numbers below 0 are allowed too.

    Raises:
        InputError: The column holds something else.
    """
    if column not in table.column_names:
        return np.full(table.num_rows, np.nan, dtype=dtype)
    kind = _kind(table, column)
    if not any(is_kind(kind) for is_kind in _NUMBERS):
        raise _wrong_kind(path, table, column, "numbers")
    values = table[column].cast(pa.float64()).to_numpy(zero_copy_only=False)
    bad = np.isinf(values) | (~np.bool_(signed) & (values < 0))
    _refuse(path, column, values, bad, "is endless" if signed else "is below 0 or endless")
    return np.asarray(values, dtype=dtype)


def _known(table: pa.Table, column: str) -> Bool[np.ndarray, " rows"]:
    """Return which rows have a value in a column."""
    return np.asarray(pc.is_valid(table[column]).to_numpy(zero_copy_only=False))


def _refuse(
    path: Path, column: str, values: Sequence[Any] | np.ndarray, bad: np.ndarray, fault: str
) -> None:
    """Raise an error where a row's value has a fault.

    Raises:
        InputError: There are such rows; it names the first.
    """
    rows = np.flatnonzero(bad)
    if len(rows):
        others = f", here and in {len(rows) - 1} more rows" if len(rows) > 1 else ""
        value = values[rows[0]]
        raise InputError(
            f"the {column} {fault}{others}",
            value=value.item() if isinstance(value, np.generic) else value,
            where=f"{path}, row {rows[0] + 1}",
            remedy="Mend such rows, or leave them out",
        )


def _kind(table: pa.Table, column: str) -> pa.DataType:
    kind = table[column].type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _wrong_kind(path: Path, table: pa.Table, column: str, needed: str) -> InputError:
    return InputError(
        f"the column {column} is not of {needed}",
        value=str(table[column].type),
        where=str(path),
        remedy=f"Write it as {needed}",
    )
