"""Reads JSON: OpenAI Batch requests or plain rows, one object a line, or all in one array."""

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from producer.rows import json_array, problems
from producer.rows.formats import CHUNK_BYTES, RawRow, in_chunks
from producer.rows.problems import ProblemKind, RowProblem

_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 19
"""The shortest whole numbers that don't fit 64 bits have 19 digits."""
_COLON = b'":'
_SPACE_BEFORE_COLON = re.compile(rb'"\s+:')
_ESCAPED_MARK = re.compile(rb"\\u00(?:2[02]|3[aA])")
"""A space, a quotation mark or a colon in a string, written as a number."""
_WHOLE_NUMBERS = range(-(2**63), 2**64)
_LONGEST_WHOLE_NUMBER = 20
"""Characters, sign included."""

_NOT_AN_OBJECT = RowProblem(
    ProblemKind.MALFORMED_LINE,
    "the row is not a JSON object",
    'Write {"prompt": ...} or an OpenAI Batch request',
)
_CUT_OFF = RowProblem(
    ProblemKind.MALFORMED_LINE,
    "the input ends inside the JSON array",
    "Write or copy the file again, or close the array with ]",
)


class _UnreadableError(ValueError):
    """A JSON text can't be read without a change; carries the problem."""

    def __init__(self, problem: RowProblem) -> None:
        self.problem = problem
        super().__init__(str(problem))


def read(stream: BinaryIO, source: str) -> Iterator[list[RawRow]]:
    """Yield the rows of a stream in chunks, without blank lines and a byte order mark.

    Raises:
        InputError: More stands behind the end of an array.
    """
    buffered = stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)  # type: ignore[type-var]  # any binary stream will do
    head = buffered.peek(1).removeprefix(codecs.BOM_UTF8).lstrip()
    if head.startswith(b"["):
        yield from in_chunks(_elements(buffered, source))
    else:
        yield from _lines(buffered)


def _lines(stream: BinaryIO) -> Iterator[list[RawRow]]:
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


def _elements(stream: BinaryIO, source: str) -> Iterator[RawRow]:
    for position, (line, text, is_whole) in enumerate(json_array.elements(stream, source), 1):
        yield RawRow(line, text, parse_line(text) if is_whole else _CUT_OFF, position)


def parse_line(line: bytes) -> dict[str, Any] | RowProblem:
    """Return a line's object, or what is wrong with it."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _explain(line, error)
    if type(row) is not dict:
        return _NOT_AN_OBJECT
    if _may_have_changed(line, row):
        try:
            _load_strictly(line)
        except _UnreadableError as error:
            return error.problem
        except RecursionError:
            return problems.TOO_DEEP
    if b"\\u0000" in line and problems.find_unstorable_text(row) is not None:
        return problems.NUL_CHARACTER
    return row


def _may_have_changed(line: bytes, row: dict[str, Any]) -> bool:
    """Return False where orjson has surely kept every key and every whole number.

    It keeps the last of repeated keys and makes floats of whole numbers beyond 64 bits. Where all
    keys are there, the row has as many colons behind quotation marks as its text, unless that has
    such a colon in another notation.
    """
    if _LONG_NUMBER in line.translate(_DIGITS):
        return True
    try:
        dumped = orjson.dumps(row)
    except orjson.JSONEncodeError:
        return True
    if line.count(_COLON) != dumped.count(_COLON) or _SPACE_BEFORE_COLON.search(line) is not None:
        return True
    return b"\\u00" in line and _ESCAPED_MARK.search(line) is not None


def _load_strictly(line: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return a line's value; NaN, which pandas writes for a cell without a value, is None.

    Raises:
        _UnreadableError: It has a repeated key, a whole number beyond 64 bits, or an infinite one.
        UnicodeDecodeError: It is not UTF-8.
        ValueError: It is not JSON.
        RecursionError: It is nested too deep.
    """
    return json.loads(
        line.decode(),
        object_pairs_hook=_object,
        parse_int=_whole_number,
        parse_constant=_constant,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    ((repeated, _),) = Counter(name for name, _ in pairs).most_common(1)
    raise _UnreadableError(
        RowProblem(ProblemKind.REPEATED_KEY, "a key comes twice", "Keep one of them", repeated)
    )


def _whole_number(text: str) -> int:
    if len(text) <= _LONGEST_WHOLE_NUMBER and int(text) in _WHOLE_NUMBERS:
        return int(text)
    what, remedy = "a whole number does not fit 64 bits", "Write it as text, in quotation marks"
    raise _UnreadableError(RowProblem(ProblemKind.NUMBER_OUT_OF_RANGE, what, remedy, text))


def _constant(name: str) -> None:
    if name != "NaN":
        what, remedy = "the row has an infinite number", "Leave it out"
        raise _UnreadableError(RowProblem(ProblemKind.MALFORMED_LINE, what, remedy, name))


def _explain(line: bytes, error: orjson.JSONDecodeError) -> dict[str, Any] | RowProblem:
    """Return a row that only NaN keeps from being JSON, else why a line is none.

    orjson calls bad encoding and lone surrogates syntax errors.
    """
    try:
        row = _load_strictly(line)
        unstorable = problems.find_unstorable_text(row)
        if unstorable is not None:
            return unstorable
        # Read once more, so that nothing gets by that orjson refuses.
        row = orjson.loads(json.dumps(row, allow_nan=False))
        return row if type(row) is dict else _NOT_AN_OBJECT
    except UnicodeDecodeError:
        return problems.INVALID_ENCODING
    except _UnreadableError as refusal:
        return refusal.problem
    except (ValueError, RecursionError):
        pass  # a real syntax error: orjson's message below says where
    return RowProblem(
        ProblemKind.MALFORMED_LINE,
        f"the row is not JSON: {error.msg} at byte {error.pos + 1}",
        "Write one JSON object a line, or all of them in one array",
    )
