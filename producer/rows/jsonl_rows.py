"""Reads JSON Lines: OpenAI Batch requests or plain rows, one object a line."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from producer.rows import text
from producer.rows.formats import CHUNK_BYTES
from producer.rows.problems import Kind, Problem, RawRow


def read(stream: BinaryIO) -> Iterator[list[RawRow]]:
    """Yield the rows of a binary stream in chunks, without blank lines and a byte order mark."""
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


def parse_line(line: bytes) -> dict[str, Any] | Problem:
    """Return a line's object, or what is wrong with it."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _explain(line, error)
    if type(row) is not dict:
        return Problem(
            Kind.MALFORMED_LINE,
            "the line is not a JSON object",
            'Write {"prompt": ...} or an OpenAI Batch request',
        )
    if b"\\u0000" in line and text.unstorable(row) is not None:
        return text.NUL_CHARACTER
    return row


def _explain(line: bytes, error: orjson.JSONDecodeError) -> Problem:
    """Tell broken encoding and lone surrogates, which orjson calls syntax errors, from the rest."""
    try:
        if text.unstorable(json.loads(line.decode())) is text.LONE_SURROGATE:
            return text.LONE_SURROGATE
    except UnicodeDecodeError:
        return text.INVALID_ENCODING
    except (ValueError, RecursionError):
        pass  # a real syntax error: orjson's message below says where
    return Problem(
        Kind.MALFORMED_LINE,
        f"the line is not JSON: {error.msg} at byte {error.pos + 1}",
        "Write one JSON object a line",
    )
