"""Reads the items of an evaluation set and collects everything that is wrong with them."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from producer.rows.problems import find_unstorable_text
from routoo.domain.items import Item, item_of
from routoo.errors import InputError, NotFoundError
from routoo.evaluation.item_grading import check_reference

LONGEST_ID = 256
"""Characters: an id and a model's name together make a custom_id."""
_WHOLE = ("max_tokens",)


@dataclass(slots=True)
class ItemFile:
    """The items of a file, and the problems of the others."""

    items: list[Item] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """A message for each row that can't be used: where, what, remedy."""


def read_item_file(path: Path, *, references: bool) -> ItemFile:
    """Read JSONL, CSV or Parquet, one item a row.

    Args:
        path: The file; its suffix tells the format.
        references: Whether every item must have a reference that its grader can use.

    Returns:
        The good items in order, and what is wrong with the others.

    Raises:
        NotFoundError: There is no such file.
        InputError: The file as a whole can't be read.
    """
    if not path.exists():
        raise NotFoundError("no such file", where=str(path))
    found, seen = ItemFile(), set[str]()
    for number, row in _rows(path):
        where = f"{path}:{number}"
        try:
            item = _checked(row, number, where, references=references)
            _check_id(seen, item.item_id, where)
        except InputError as error:
            found.problems.append(str(error))
        else:
            found.items.append(item)
    return found


def _check_id(seen: set[str], item_id: str, where: str) -> None:
    if item_id in seen:
        raise InputError(
            "the item_id repeats an earlier one",
            value=item_id,
            where=where,
            remedy="Give every item its own",
        )
    seen.add(item_id)


def _checked(
    row: Mapping[str, Any] | InputError, number: int, where: str, *, references: bool
) -> Item:
    if isinstance(row, InputError):
        raise row
    bad = find_unstorable_text(dict(row))
    if bad is not None:
        raise InputError(bad.what, where=where, remedy=bad.remedy)
    item = item_of(row, number, where)
    if not item.prompt.strip():
        raise InputError("the prompt is empty", where=where, remedy="Write one")
    if len(item.item_id) > LONGEST_ID:
        raise InputError(
            f"item_id has more than {LONGEST_ID} characters",
            where=where,
            remedy="Use a shorter key, such as a hash of it",
        )
    if references:
        try:
            check_reference(item)
        except InputError as error:
            raise InputError(
                error.what, value=error.value, where=where, remedy=error.remedy
            ) from error
    return item


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | InputError]]:
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            yield from enumerate(pq.read_table(path).to_pylist(), 1)
        elif path.suffix.lower() == ".csv":
            yield from _csv_rows(path)
        else:
            yield from _json_rows(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            "the items can't be read", value=str(error)[:200], where=str(path)
        ) from error


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | InputError]]:
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield number, _not_json(f"{path}:{number}", str(error))
        else:
            yield number, row if isinstance(row, dict) else _not_json(f"{path}:{number}", None)


def _not_json(where: str, value: str | None) -> InputError:
    remedy = 'Write {"prompt": ..., "answer": ...} on one line'
    return InputError("the line is no JSON object", value=value, where=where, remedy=remedy)


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | InputError]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        for row in reader:
            if None in row:
                yield (
                    reader.line_num,
                    InputError(
                        "the row has more fields than the header",
                        where=f"{path}:{reader.line_num}",
                        remedy="Quote fields that hold commas",
                    ),
                )
                continue
            given: dict[str, Any] = {name: value for name, value in row.items() if value}
            for name in _WHOLE:
                if str(given.get(name, "")).isdecimal():
                    given[name] = int(given[name])
            yield reader.line_num, given
