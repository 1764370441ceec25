r"""Reads the content of `\boxed{...}`, which is the result and nothing else.

So it is read whole or not at all: `\boxed{2x + 1}` is no 2 and no 1.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from routoo.evaluation.graders.numeric.expressions import evaluate
from routoo.evaluation.graders.numeric.numbers import SCALE_NAMES, Number, find_numbers
from routoo.evaluation.graders.numeric.units import is_unit

_BOX = re.compile(r"\\f?boxed\s?\{")
_MOST_CHARACTERS = 400
_TEXT = re.compile(
    r"\\(?:text(?:bf|rm|it|sf)?|math(?:rm|bf|sf)|mbox|hbox|operatorname)\s?\{([^{}]*)\}"
)
_DECORATION = re.compile(r"\\[$,;:! ]|[$€£¥*]|\\(?:left|right|displaystyle)\b")
_EQUALS = re.compile(r"=|\\approx\b|\\simeq\b|\u2248")
_UNIT = re.compile(
    r"\s*(?P<name>[a-zA-Z\u00b5]+)(?:\s?\^\s?\{?-?\d\}?)?"
    r"(?:\s?(?:/|per|\s)\s?[a-zA-Z]+(?:\^\{?-?\d\}?)?){0,6}[\s.]*\Z"
)
_PERCENT = re.compile(r"\s*\\?%[\s.]*\Z")
_WORDS = re.compile(r"[\w\s.,:'/-]*\Z")


def boxed_results(text: str) -> Iterator[Number]:
    """Yield the number in each box of a text; one without a value where it isn't one number."""
    for match in _BOX.finditer(text):
        content = _balanced(text, match.end())
        number = None if content is None else _result(content)
        if content is not None and number is not None:
            end = match.end() + len(content)
            yield replace(number, text=content, start=match.end(), end=end)


def _balanced(text: str, start: int) -> str | None:
    """Return what stands before the brace that closes; None where none does."""
    depth = 1
    for at in range(start, min(len(text), start + _MOST_CHARACTERS)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start:at]
    return None


def _result(content: str) -> Number | None:
    """Return the number that a box holds; None where it holds none at all."""
    plain = _DECORATION.sub(" ", _TEXT.sub(r" \1 ", content))
    plain = " ".join(_EQUALS.split(plain)[-1].split())
    numbers = find_numbers(plain)
    if not numbers:
        return None
    number, read = numbers[0], evaluate(plain)
    rest = "" if read is None else plain[read.end :]
    if read is not None and (_ends_with(rest) or read.is_compound):
        value = read.value if _ends_with(rest) else None
        return replace(number, value=value, percent=_PERCENT.match(rest) is not None)
    before, behind = plain[: number.start], plain[number.end :]
    is_alone = len(numbers) == 1 and _WORDS.match(before) and _ends_with(behind)
    return number if is_alone else replace(number, value=None)


def _ends_with(text: str) -> bool:
    """Whether nothing but words follows a number, such as a unit, and no variable."""
    if not text.strip(" .") or _PERCENT.match(text):
        return True
    found = _UNIT.match(text)
    if found is None or found["name"].lower() in SCALE_NAMES:
        return False
    return len(found["name"]) > 1 or is_unit(found["name"])
