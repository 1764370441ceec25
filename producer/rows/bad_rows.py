"""Collects which rows are bad and why: a list for the screen, and a file of the rows."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson

from producer.rows.formats import RawRow
from producer.rows.problems import ProblemKind, RowProblem
from routoo.errors import InputError
from routoo.files import replacing

LISTED_IN_FULL = 50
"""Problems printed one by one; the rest is counted by kind."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't become a job, with everything that is wrong with it."""

    row: RawRow
    problems: tuple[RowProblem, ...]


@dataclass(slots=True)
class ProblemList:
    """Collects problems: the first ones in full, all of them by kind, in bounded memory."""

    source: str
    """Name of the input, as messages show it."""
    bad_rows: int = 0
    counts: Counter[ProblemKind] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)
    first: list[tuple[int, RowProblem]] = field(default_factory=list)
    """The problems that are listed, each with its line."""
    _alike: Counter[str] = field(default_factory=Counter)
    """How many rows have each of the listed problems, in the same words."""

    def add(self, bad: BadRow) -> None:
        """Count a bad row's problems and list them while there is room."""
        self.bad_rows += 1
        for problem in bad.problems:
            self.counts[problem.kind] += 1
            text = str(problem)
            if len(self.listed) < LISTED_IN_FULL:
                self.first.append((bad.row.line, problem))
                self.listed.append(f"{self.source}:{bad.row.line}: {text}")
                self._alike[text] += 1
            elif text in self._alike:
                self._alike[text] += 1

    def lines(self) -> Iterator[str]:
        """Yield the lines that a person should read: the first problems, then the counts.

        Problems in the same words are one line: the first, with how many there are.
        """
        told = set()
        for listed, (_, problem) in zip(self.listed, self.first, strict=True):
            text = str(problem)
            if text not in told:
                alike = self._alike[text]
                yield listed if alike == 1 else f"{listed} ({alike:,} rows have this problem)"
            told.add(text)
        more = self.counts.total() - self._alike.total()
        if more:
            counts = ", ".join(f"{kind} {count:,}" for kind, count in self.counts.most_common())
            yield f"... and {more:,} more; all by kind: {counts}"


class BadInputError(InputError):
    """Some rows can't become jobs, and nothing was submitted; carries their problems."""

    def __init__(self, problems: ProblemList, *, row_count: int) -> None:
        self.problems = problems
        super().__init__(
            f"{problems.bad_rows:,} of {row_count:,} rows have problems: nothing was submitted",
            where=problems.source,
            remedy="Correct them, or submit the others with --skip-invalid",
        )


class ErrorFile:
    """A JSONL file of bad rows, to be corrected and submitted again.

    Each line holds the line number, the problems and the row as it was. The file is made when the
    first bad row comes.
    """

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
        self._stream.write(error_line(bad))
        self.rows += 1


def error_line(bad: BadRow) -> bytes:
    """Return the line of an error file that describes a bad row."""
    raw = bad.row.raw
    record: dict[str, Any] = {
        "line": bad.row.line,
        "problems": [{"kind": str(one.kind), "message": str(one)} for one in bad.problems],
        "raw": raw.decode(errors="backslashreplace").rstrip("\r\n")
        if isinstance(raw, bytes)
        else raw,
    }
    return orjson.dumps(record, default=str, option=orjson.OPT_APPEND_NEWLINE)
