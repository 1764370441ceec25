"""Finds the elements of one large JSON array without holding more than one of them."""

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from producer.rows.formats import CHUNK_BYTES
from routoo.errors import InputError

_MARK = re.compile(rb'["\[\]{}]')
_MARK_BETWEEN = re.compile(rb'["\[\]{},]')
"""The same between elements, where a comma ends one."""
_WITHOUT_BRACKETS = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
"""Whole strings and what stands between them; it only saves time."""
_REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
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
