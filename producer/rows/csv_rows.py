"""Reads CSV with a header: all its columns, `prompt` or those that a template names among them."""

import csv
import io
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from producer.rows import problems
from producer.rows.formats import PROMPT, RawRow, WantedColumns, in_chunks
from producer.rows.problems import ProblemKind, RowProblem

_LONGEST_FIELD = 2**31 - 1
_EMPTY_CELLS = frozenset({"", "nan", "NaN", "NaT", "<NA>"})
"""How tables that pandas wrote show a cell without a value."""


class _CsvReader(Protocol):
    """What `csv.reader` returns."""

    @property
    def line_num(self) -> int: ...
    def __next__(self) -> list[str]: ...


def read(stream: BinaryIO, source: str, columns: WantedColumns = PROMPT) -> Iterator[list[RawRow]]:
    """Yield the rows of a stream in chunks; an empty field, or NaN, is not given.

    Raises:
        InputError: There is no header, or it lacks a wanted column, or names one twice.
    """
    # Bytes that are not UTF-8 become lone surrogates here and are reported with their row.
    lines = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(lines)
    try:
        header = [name.strip() for name in next(reader, [])]
        columns.check(header, f"{source}:1")
        yield from in_chunks(_rows(reader, header))
    finally:
        lines.detach()


def _rows(reader: _CsvReader, header: list[str]) -> Iterator[RawRow]:
    line = reader.line_num + 1
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = f"the row is not CSV: {error}"
            yield RawRow(line, {}, RowProblem(ProblemKind.MALFORMED_LINE, what, "Correct it"))
        else:
            if values:
                yield _row(line, values, header)
        line = reader.line_num + 1


def _row(line: int, values: list[str], header: list[str]) -> RawRow:
    shown = {name: _printable(value) for name, value in zip(header, values, strict=False)}
    if len(values) != len(header):
        problem = RowProblem(
            ProblemKind.MALFORMED_LINE,
            f"the row has {len(values)} fields and the header {len(header)}",
            "Quote fields that hold commas or line breaks",
        )
        return RawRow(line, shown, problem)
    unstorable = problems.find_unstorable_text(values)
    if unstorable is not None:
        undecoded = unstorable is problems.LONE_SURROGATE
        return RawRow(line, shown, problems.INVALID_ENCODING if undecoded else unstorable)
    cells = zip(header, values, strict=True)
    return RawRow(line, shown, {name: cell for name, cell in cells if cell not in _EMPTY_CELLS})


def _printable(value: str) -> str:
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()
