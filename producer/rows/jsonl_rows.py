"""Reads JSON: OpenAI Batch requests or plain rows, one object a line, or all in one array."""

import codecs
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count, repeat
from typing import Any, BinaryIO, NamedTuple

import orjson

from producer.rows import problems
from producer.rows.formats import CHUNK_BYTES, PROMPT, RawRow, WantedColumns, in_chunks
from producer.rows.problems import ProblemKind, RowProblem
from routoo.errors import InputError

_MARK = re.compile(rb'["\[\]{}]')
_MARK_BETWEEN = re.compile(rb'["\[\]{},]')
"""The same between elements, where a comma ends one."""
_WITHOUT_BRACKETS = re.compile(rb'(?:[^"\[\]{}]+|"[^"\\]*(?:\\.[^"\\]*)*")*', re.DOTALL)
"""Whole strings and what stands between them; it only saves time."""
_REST_OF_STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_REMEDY = "Give one array and nothing behind it, or one object a line"


class Element(NamedTuple):
    """An element of an array, as it stands there."""

    line: int
    """The line where it starts, from 1."""
    text: bytes
    is_whole: bool = True
    """False for what is left of one where the input ends inside the array."""


class _Scan:
    """The part of an array that has been read and not been returned yet."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = self._start = 0
        """How far the data is looked at, and where the present element starts."""
        self._line, self._lines_counted_to = 1, 0
        self._depth = 0
        """Brackets that are open; 1 between the array's elements."""
        self._in_string = self._is_over = False

    def feed(self, piece: bytes) -> None:
        """Add the next bytes."""
        self._count_lines(self._start)
        del self._data[: self._start]
        self._at -= self._start
        self._start = self._lines_counted_to = 0
        self._data += piece

    def elements(self) -> Iterator[Element]:
        """Yield the elements that end in the data so far."""
        while not self._is_over:
            if self._in_string and not self._leave_string():
                return
            mark = self._next_mark()
            if mark is None:
                self._at = len(self._data)
                return
            self._at = mark.end()
            if self._takes(mark[0]):
                yield from self._element(mark.start(), is_last=mark[0] == b"]")

    def _next_mark(self) -> re.Match[bytes] | None:
        if self._depth == 1:
            return _MARK_BETWEEN.search(self._data, self._at)
        skipped = _WITHOUT_BRACKETS.match(self._data, self._at)
        return _MARK.search(self._data, self._at if skipped is None else skipped.end())

    @property
    def rest(self) -> Element | None:
        """What stands behind the last element: of the array, or behind its end."""
        text = bytes(self._data[self._start :])
        if self._is_over and not text.strip():
            return None
        self._count_lines(self._start + len(text) - len(text.lstrip()))
        return Element(self._line, text.strip(), is_whole=False)

    @property
    def is_over(self) -> bool:
        """Whether the array's end has been read."""
        return self._is_over

    def _takes(self, mark: bytes) -> bool:
        """Take a mark in; return whether it ends an element."""
        if mark == b'"':
            self._in_string = True
        elif mark == b",":
            return True
        elif mark in b"[{":
            self._depth += 1
            if self._depth == 1:
                self._start = self._at
        else:
            self._depth -= 1
            self._is_over = self._depth == 0
        return self._is_over

    def _leave_string(self) -> bool:
        """Go to the end of the string that is being read; False where it is not there yet."""
        found = _REST_OF_STRING.match(self._data, self._at)
        self._at = self._at if found is None else found.end()
        if self._data[self._at : self._at + 1] != b'"':
            return False  # the data ends, perhaps in the middle of an escape
        self._at, self._in_string = self._at + 1, False
        return True

    def _element(self, end: int, *, is_last: bool) -> Iterator[Element]:
        text = bytes(self._data[self._start : end])
        self._count_lines(self._start + len(text) - len(text.lstrip()))
        self._start = self._at
        text = text.strip()
        if text or not is_last:  # an empty array, or a comma behind its last element
            yield Element(self._line, text)

    def _count_lines(self, to: int) -> None:
        if to > self._lines_counted_to:
            self._line += self._data.count(b"\n", self._lines_counted_to, to)
            self._lines_counted_to = to


def elements(stream: BinaryIO, source: str) -> Iterator[Element]:
    """Yield the elements of the array that a stream holds.

    Where the input ends inside the array, the last one is what is left.

    Raises:
        InputError: More stands behind the array.
    """
    scan = _Scan()
    while piece := stream.read(CHUNK_BYTES):
        scan.feed(piece)
        yield from scan.elements()
        if scan.is_over and scan.rest is not None:
            break
    rest = scan.rest
    if rest is not None and scan.is_over:
        raise InputError(
            "more stands behind the end of the JSON array",
            value=rest.text[:80].decode(errors="replace"),
            where=f"{source}:{rest.line}",
            remedy=_REMEDY,
        )
    if rest is not None:
        yield rest


_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * 19
"""The shortest whole numbers that don't fit 64 bits have 19 digits."""
_ESCAPED_QUOTE = b"\\u0022"
"""A quotation mark in a string, written as a number."""
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


def read(stream: BinaryIO, source: str, columns: WantedColumns = PROMPT) -> Iterator[list[RawRow]]:
    """Yield the rows of a stream in chunks, without blank lines and a byte order mark.

    Raises:
        InputError: More stands behind the end of an array.
    """
    del columns  # a row of JSON names its own
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
        yield _rows(first, lines)
        first += len(lines)


def _elements(stream: BinaryIO, source: str) -> Iterator[RawRow]:
    for position, (line, text, is_whole) in enumerate(elements(stream, source), 1):
        yield raw_row(line, text, position) if is_whole else RawRow(line, text, _CUT_OFF, position)


def _rows(first: int, lines: list[bytes]) -> list[RawRow]:
    """Return lines as rows; all at once where each is an object as orjson writes it.

    Most programs write JSON so. Then all of a line is in its row.
    """
    try:
        rows = list(map(orjson.loads, lines))
        # As texts: orjson's bytes hold on to eight times the memory that they need.
        compact = [orjson.dumps(row).decode() for row in rows]
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return [
            raw_row(number, line)
            for number, line in enumerate(lines, first)
            if line and not line.isspace()
        ]
    whole = b"".join(lines)
    if (
        "\n".join(compact).encode() == whole.removesuffix(b"\n")
        and set(map(type, rows)) == {dict}
        and b"\\u0000" not in whole
    ):
        return list(map(RawRow, count(first), lines, rows, repeat(None), compact))
    return [
        _checked(number, line, row, text)
        for number, line, row, text in zip(count(first), lines, rows, compact, strict=False)
    ]


def raw_row(number: int, line: bytes, position: int | None = None) -> RawRow:
    """Return a line as a row, which carries what is wrong with it if something is.

    Args:
        number: Of the line, from 1.
        line: A JSON value.
        position: Among the elements of an array; from 1.
    """
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return RawRow(number, line, _explain(line, error), position)
    try:
        compact = orjson.dumps(row).decode()
    except orjson.JSONEncodeError:
        compact = None  # nested too deep
    return _checked(number, line, row, compact, position)


def _checked(
    number: int, line: bytes, row: object, compact: str | None, position: int | None = None
) -> RawRow:
    """Return a line as a row, as `raw_row` does, once its value has been read."""
    found = _kept(line, row, compact)
    return RawRow(number, line, found, position, compact if found is row else None)


def _kept(line: bytes, row: object, compact: str | None) -> dict[str, Any] | RowProblem:
    """Return a line's object, or what of the line is not in it.

    Args:
        line: The JSON text.
        row: Its value.
        compact: What orjson makes of that; None where it can't.
    """
    if type(row) is not dict:
        return _NOT_AN_OBJECT
    if compact is None or _may_have_changed(line, compact):
        try:
            _load_strictly(line)
        except _UnreadableError as error:
            return error.problem
        except RecursionError:
            return problems.TOO_DEEP
    if b"\\u0000" in line and problems.find_unstorable_text(row) is not None:
        return problems.NUL_CHARACTER
    return problems.TOO_DEEP if compact is None else row


def _may_have_changed(line: bytes, compact: str) -> bool:
    """Return False where orjson has surely kept every key and every whole number.

    It keeps the last of repeated keys and makes floats of whole numbers beyond 64 bits. Where all
    keys are there, what it writes has as many quotation marks as the line, unless that has one in
    another notation.

    Args:
        line: The JSON text.
        compact: What orjson makes of it.
    """
    if line.count(b'"') != compact.count('"') or _ESCAPED_QUOTE in line:
        return True
    return _LONG_NUMBER in line.translate(_DIGITS)


def _load_strictly(line: bytes) -> object:
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
        orjson.dumps(row)
        return row if type(row) is dict else _NOT_AN_OBJECT
    except orjson.JSONEncodeError:
        return problems.TOO_DEEP
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
