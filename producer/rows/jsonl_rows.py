"""Reads JSON Lines: OpenAI Batch requests or plain rows, one object a line."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from producer.rows import problems
from producer.rows.formats import CHUNK_BYTES, RawRow
from producer.rows.problems import ProblemKind, RowProblem


def read(stream: BinaryIO, _source: str) -> Iterator[list[RawRow]]:
    """Yield the rows of a stream in chunks, without blank lines and a byte order mark."""
    first = 1
    while lines := stream.readlines(CHUNK_BYTES):
        if first == 1:
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        yield [
            RawRow(number, line, parse_line(line))
            for number, line in enumerate(lines, first)
            if line and not line.isspace()
        ]
        first += len(lines)


def parse_line(line: bytes) -> dict[str, Any] | RowProblem:
    """Return a line's object, or what is wrong with it."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _explain(line, error)
    if type(row) is not dict:
        return RowProblem(
            ProblemKind.MALFORMED_LINE,
            "the line is not a JSON object",
            'Write {"prompt": ...} or an OpenAI Batch request',
        )
    if b"\\u0000" in line and problems.find_unstorable_text(row) is not None:
        return problems.NUL_CHARACTER
    return row


def _explain(line: bytes, error: orjson.JSONDecodeError) -> RowProblem:
    """Return why a line is no JSON: orjson calls bad encoding and lone surrogates syntax errors."""
    try:
        if problems.find_unstorable_text(json.loads(line.decode())) is problems.LONE_SURROGATE:
            return problems.LONE_SURROGATE
    except UnicodeDecodeError:
        return problems.INVALID_ENCODING
    except (ValueError, RecursionError):
        pass  # a real syntax error: orjson's message below says where
    return RowProblem(
        ProblemKind.MALFORMED_LINE,
        f"the line is not JSON: {error.msg} at byte {error.pos + 1}",
        "Write one JSON object a line",
    )
