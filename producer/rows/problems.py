"""Lists what can be wrong with an input row, and checks its text."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

_LONGEST_VALUE = 80
"""Characters of an offending value that a message shows."""


class ProblemKind(StrEnum):
    """Kinds of problems, under the names that counts and the error file use."""

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
    INVALID_RULE = "invalid_rule"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    REPEATED_KEY = "repeated_key"


@dataclass(frozen=True, slots=True)
class RowProblem:
    """One thing that is wrong with a row."""

    kind: ProblemKind
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
    """The value of a limit can't be used; carries the problem."""

    def __init__(self, problem: RowProblem) -> None:
        self.problem = problem
        super().__init__(str(problem))


LONE_SURROGATE = RowProblem(
    ProblemKind.LONE_SURROGATE,
    "a string holds half of a surrogate pair, which is no character",
    "Write the whole pair or U+FFFD in its place",
)
NUL_CHARACTER = RowProblem(
    ProblemKind.NUL_CHARACTER,
    "a string holds the NUL character U+0000, which PostgreSQL can't store",
    "Remove it",
)
INVALID_ENCODING = RowProblem(
    ProblemKind.INVALID_ENCODING, "the line is not UTF-8", "Convert the file to UTF-8"
)
TOO_DEEP = RowProblem(
    ProblemKind.MALFORMED_LINE, "the row is nested deeper than 250 levels", "Flatten it"
)


def find_unstorable_text(value: object) -> RowProblem | None:
    """Return why PostgreSQL or UTF-8 could not store a JSON value's strings, None if they can."""
    for text in _strings(value):
        if "\0" in text:
            return NUL_CHARACTER
        if not text.isascii() and _has_surrogate(text):
            return LONE_SURROGATE
    return None


def _strings(value: object) -> Iterator[str]:
    """Yield every string of a JSON value, keys too, without recursion."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _cut(value: object) -> str:
    shown = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return shown if len(shown) <= _LONGEST_VALUE else f"{shown[:_LONGEST_VALUE]}..."
