"""Reads lines as they come, from a pipe or from a file that still grows."""

import asyncio
import threading
import time
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from routoo.errors import InputError

_POLL_S = 0.2


class Line(NamedTuple):
    """A line and its number."""

    number: int
    """From 1, counted over the whole source."""
    text: bytes


class LineFeed:
    """Reads lines in a thread of its own, a bounded number ahead of those taken.

    Args:
        stream: The pipe or file.
        skip: Number of lines at the start to leave out.
        follow: Wait for more at the end, for a file that another program writes. A last
            line without its line end is then not taken.
        most_ahead: Maximum number of lines read and not taken yet.
    """

    def __init__(
        self, stream: BinaryIO, *, skip: int = 0, follow: bool = False, most_ahead: int = 1000
    ) -> None:
        self._stream, self._skip, self._follow = stream, skip, follow
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[Line | OSError | None] = asyncio.Queue(most_ahead)
        self._ended = False
        # A daemon: a read that blocks for ever must not keep the program from ending.
        threading.Thread(target=self._read, name="line-feed", daemon=True).start()

    async def take(self, most: int, linger_s: float) -> list[Line]:
        """Return the next lines: the first, and those that come within a while after it.

        Args:
            most: Maximum number of lines to return.
            linger_s: How long to wait for more after the first line, in seconds.

        Returns:
            At least one line; an empty list only at the end of the source.

        Raises:
            InputError: The source can't be read.
        """
        taken: list[Line] = []
        if most > 0 and not self._ended:
            await self._take_one(taken)
        with suppress(TimeoutError):
            async with asyncio.timeout(linger_s):
                while len(taken) < most and not self._ended:
                    await self._take_one(taken)
        return taken

    async def _take_one(self, taken: list[Line]) -> None:
        line = await self._lines.get()
        if isinstance(line, OSError):
            raise InputError("the lines can't be read", value=line.strerror) from line
        if line is None:
            self._ended = True
        else:
            taken.append(line)

    def _read(self) -> None:
        # A closed loop raises the first, a closed file the second: nobody takes lines any more.
        with suppress(RuntimeError, ValueError):
            try:
                self._read_lines()
            except OSError as error:
                self._put(error)
            else:
                self._put(None)

    def _read_lines(self) -> None:
        number, rest = 0, b""
        while True:
            piece = self._stream.readline()
            if self._follow and not piece.endswith(b"\n"):
                rest += piece
                time.sleep(_POLL_S)
                continue
            if not piece:
                return
            number, text, rest = number + 1, rest + piece, b""
            if number > self._skip:
                self._put(Line(number, text))

    def _put(self, line: Line | OSError | None) -> None:
        asyncio.run_coroutine_threadsafe(self._lines.put(line), self._loop).result()
