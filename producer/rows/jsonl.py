"""Reads JSON Lines: OpenAI Batch requests or plain rows, one object a line."""

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from producer.rows import text
from producer.rows.problems import Kind, Problem, RawRow


def read(stream: BinaryIO) -> Iterator[RawRow]:
    """Yield the rows of a binary stream; blank lines and a byte order mark are passed over."""
    for number, line in enumerate(stream, 1):
        if number == 1 and line.startswith(codecs.BOM_UTF8):
            line = line.removeprefix(codecs.BOM_UTF8)  # noqa: PLW2901 - the mark is no part of it
        if not line.isspace() and line:
            yield RawRow(number, line, _parse(line))


def _parse(line: bytes) -> dict[str, Any] | Problem:
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
