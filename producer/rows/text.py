"""Characters that a row must not hold: PostgreSQL or UTF-8 could not store them."""

from collections.abc import Iterator
from typing import Any

from producer.rows.problems import Kind, Problem

LONE_SURROGATE = Problem(
    Kind.LONE_SURROGATE,
    "a string holds half of a surrogate pair, which is no character",
    "Write the whole pair or U+FFFD in its place",
)
NUL_CHARACTER = Problem(
    Kind.NUL_CHARACTER,
    "a string holds the NUL character U+0000, which PostgreSQL can't store",
    "Remove it",
)
INVALID_ENCODING = Problem(
    Kind.INVALID_ENCODING, "the line is not UTF-8", "Convert the file to UTF-8"
)


def strings(value: Any) -> Iterator[str]:  # noqa: ANN401 - any JSON value
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


def unstorable(value: Any) -> Problem | None:  # noqa: ANN401 - any JSON value
    """Return what keeps a value's strings from being stored, None where nothing does."""
    for text in strings(value):
        if "\0" in text:
            return NUL_CHARACTER
        if not text.isascii() and _has_surrogate(text):
            return LONE_SURROGATE
    return None


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
