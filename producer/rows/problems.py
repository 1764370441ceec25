"""What can be wrong with an input row, and the report that lists it all at once."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from routoo.errors import InputError

LISTED_IN_FULL = 50
"""Problems printed one by one; the rest is counted by kind."""
_LONGEST_VALUE = 80


class Kind(StrEnum):
    """Kinds of problems, the words that the counts and the error file use."""

    MALFORMED_LINE = "malformed_line"
    INVALID_ENCODING = "invalid_encoding"
    LONE_SURROGATE = "lone_surrogate"
    NUL_CHARACTER = "nul_character"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    DUPLICATE_CUSTOM_ID = "duplicate_custom_id"
    CUSTOM_ID_TOO_LONG = "custom_id_too_long"
    EMPTY_PROMPT = "empty_prompt"
    PROMPT_TOO_LONG = "prompt_too_long"
    UNKNOWN_MODEL = "unknown_model"
    UNSUPPORTED_REQUEST = "unsupported_request"
    LIMIT_OUT_OF_RANGE = "limit_out_of_range"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a row."""

    kind: Kind
    what: str
    """A sentence without its full stop."""
    remedy: str
    """What to do about it, a sentence without its full stop."""
    value: object = None
    """The offending value, cut for printing."""

    def __str__(self) -> str:
        """Return the problem in one line: what, value, remedy."""
        value = "" if self.value is None else f" (got {_cut(self.value)})"
        return f"{self.what}{value}. {self.remedy}."


class LimitError(ValueError):
    """A limit's value is unusable; carries the problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        super().__init__(str(problem))


class RawRow(NamedTuple):
    """A row as it was read: its fields, or why they could not be read."""

    line: int
    """From 1; the line where the row starts, or the row of a Parquet file."""
    raw: bytes | Mapping[str, Any]
    """The row itself, for the error file."""
    fields: dict[str, Any] | Problem


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't become a job, with everything that is wrong with it."""

    row: RawRow
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class ProblemReport:
    """Collects problems: the first ones in full, all of them by kind, in bounded memory."""

    source: str
    """Name of the input, as messages show it."""
    bad_rows: int = 0
    counts: Counter[Kind] = field(default_factory=Counter)
    listed: list[str] = field(default_factory=list)

    def add(self, bad: BadRow) -> None:
        """Count a bad row's problems and list them while there is room."""
        self.bad_rows += 1
        for problem in bad.problems:
            self.counts[problem.kind] += 1
            if len(self.listed) < LISTED_IN_FULL:
                self.listed.append(f"{self.source}:{bad.row.line}: {problem}")

    def lines(self) -> Iterator[str]:
        """Yield what a person should read: the first problems, then the counts."""
        yield from self.listed
        total = self.counts.total()
        if total > len(self.listed):
            counts = ", ".join(f"{kind} {count:,}" for kind, count in self.counts.most_common())
            yield f"... and {total - len(self.listed):,} more; all by kind: {counts}"


class BadInputError(InputError):
    """Some rows can't become jobs, and nothing was submitted; carries the report."""

    def __init__(self, report: ProblemReport, *, row_count: int) -> None:
        self.report = report
        super().__init__(
            f"{report.bad_rows:,} of {row_count:,} rows have problems: nothing was submitted",
            where=report.source,
            remedy="Correct them, or submit the others with --skip-invalid",
        )


def _cut(value: object) -> str:
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."
