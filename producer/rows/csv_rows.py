"""Reads CSV with a header: the columns `prompt`, and as wanted `custom_id` and the limits."""

import csv
import io
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from producer.rows import text
from producer.rows.formats import in_chunks
from producer.rows.problems import Kind, Problem, RawRow
from routoo.errors import InputError

_LONGEST_FIELD = 2**31 - 1


def read(stream: BinaryIO, source: str) -> Iterator[list[RawRow]]:
    """Yield the rows of a binary stream in chunks; an empty field means that it is not given.

    Raises:
        InputError: There is no header, or it names no `prompt` column.
    """
    # Bytes that are not UTF-8 become lone surrogates here and are reported with their row.
    lines = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(lines)
    try:
        header = _header(next(reader, []), source)
        yield from in_chunks(_rows(reader, header))
    finally:
        lines.detach()


def _header(names: Sequence[str], source: str) -> list[str]:
    header = [name.strip() for name in names]
    if "prompt" not in header:
        raise InputError(
            "the CSV header has no column prompt",
            value=", ".join(header)[:200],
            where=f"{source}:1",
            remedy="Name the columns in the first line: prompt, and as wanted custom_id and limits",
        )
    return header


def _rows(reader: Iterator[list[str]], header: list[str]) -> Iterator[RawRow]:
    line = reader.line_num + 1  # type: ignore[attr-defined]  # _csv.reader's own attribute
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = Problem(Kind.MALFORMED_LINE, f"the row is not CSV: {error}", "Correct it")
            yield RawRow(line, {}, problem)
        else:
            if values:
                yield _row(line, values, header)
        line = reader.line_num + 1  # type: ignore[attr-defined]  # the same


def _row(line: int, values: list[str], header: list[str]) -> RawRow:
    shown = {name: _printable(value) for name, value in zip(header, values, strict=False)}
    if len(values) != len(header):
        problem = Problem(
            Kind.MALFORMED_LINE,
            f"the row has {len(values)} fields and the header {len(header)}",
            "Quote fields that hold commas or line breaks",
        )
        return RawRow(line, shown, problem)
    unstorable = text.unstorable(values)
    if unstorable is not None:
        problem = text.INVALID_ENCODING if unstorable is text.LONE_SURROGATE else unstorable
        return RawRow(line, shown, problem)
    fields = {name: value for name, value in zip(header, values, strict=True) if value != ""}
    return RawRow(line, shown, dict(fields))


def _printable(value: str) -> str:
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()
