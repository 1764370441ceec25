"""Writes bad rows to a file, to be corrected and submitted again."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson

from producer.rows.problems import BadRow
from routoo.files import replacing


class ErrorFile:
    """A JSONL file of bad rows, made when the first comes: line, problems, the row as it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0
        self._stack = ExitStack()
        self._stream: BinaryIO | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep the file where the block ended well, leave none otherwise."""
        self._stack.__exit__(kind, error, trace)

    def add(self, bad: BadRow) -> None:
        """Append a bad row."""
        if self._stream is None:
            self._stream = self._stack.enter_context(replacing(self.path))
        line = orjson.dumps(error_record(bad), default=str, option=orjson.OPT_APPEND_NEWLINE)
        self._stream.write(line)
        self.rows += 1


def error_record(bad: BadRow) -> dict[str, Any]:
    """Return what is written of a bad row."""
    raw = bad.row.raw
    return {
        "line": bad.row.line,
        "problems": [{"kind": str(one.kind), "message": str(one)} for one in bad.problems],
        "raw": raw.decode(errors="backslashreplace").rstrip("\r\n")
        if isinstance(raw, bytes)
        else raw,
    }
