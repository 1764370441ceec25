r"""Grades answers that are a number.

The first of these rules that finds a number decides which one counts:

1. the last one that is marked as the result: `\boxed{42}`, `#### 42`, "the answer is 42",
   "the output of the code will be 42", or as the only number of `"answer": "..."`;
2. with the option `unit`: the last one that is followed by that unit, or by another of its kind
   (km for m), which is converted; numbers with units of other kinds don't count;
3. the only number of the answer;
4. with the option `pick: last` (the default): the last one after the last equals sign, else the
   last one of the text. With `pick: only`, several different numbers are ambiguous.

"12 or 13" and "between 12 and 13" are ambiguous unless rule 1 or 2 decides.

An expression such as `3\sqrt{2}`, `2^{10}`, `2\pi` or `-\frac{3}{4}` is one number, its value. What
can't be evaluated to its end, such as `2x + 1` in a box, is left ungraded and never half-read.
So is a calculation where the result should stand, as in "the answer is 9 * 2 = 18".
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

from routoo.errors import InputError
from routoo.evaluation.graders.grade import (
    Grade,
    first_and_last,
    readable,
    right_or_wrong,
    ungraded,
)
from routoo.evaluation.graders.numeric.expressions import evaluate
from routoo.evaluation.graders.numeric.numbers import (
    GOES_ON,
    SCALE_NAMES,
    Number,
    carries,
    find_numbers,
    in_unit,
    is_unit,
    plain_notation,
)

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


_IS = r"(?:is|was|=|equals|will be|would be)"
_RESULT = re.compile(
    rf"####\s?|\b(?:final\s)?(?:answer|result)\b[\s_*:]{{0,6}}{_IS}?"
    rf"|\b(?:output|total|sum|difference|product|quotient|remainder|value)\b[^.\n=]{{0,60}}?\b{_IS}",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"[\s$€£¥*_:=`\"'({\\~≈]*(?:(?:about|approximately|roughly|text\{)\s*)?[\s$€£¥*_]*"
)
_CALCULATION = re.compile(r"\s?[-+*/\u00d7\u00b7]\s?[$€£]?[\d.(\\\u221a\u03c0]")
_TERM_BEFORE = re.compile(r"(?:^|[^a-zA-Z\\])[a-zA-Z]\s?[-+*/^]\s?\Z")
_FIELD = re.compile(r'"answer"\s?:\s?"((?:[^"\\\n]|\\.){1,300})"')
_HEDGE = re.compile(r"[\s\w°%$€£]{0,12}\b(?:or|to|and)\b\s*[$€£]?\s*\Z", re.IGNORECASE)


def grade_numeric(answer: str, reference: str, options: Mapping[str, Any]) -> Grade:
    """Grade a number.

    Args:
        answer: What the model wrote.
        reference: The right number, or several separated by `|`.
        options: `tolerance` (absolute, default 0), `relative_tolerance` (of the reference, default
            1e-9), `unit` (a unit that the number must carry where others stand beside it), `pick`.

    Raises:
        InputError: The reference holds no number.
    """
    wanted = [_only(part) for part in reference.split("|")]
    text = plain_notation(first_and_last(readable(answer)))
    numbers = find_numbers(text)
    unit = options.get("unit")
    if unit:
        numbers = list(in_unit(text, numbers, str(unit)))
    if not numbers:
        carrying = f" that may be in {unit}" if unit else ""
        return right_or_wrong(right=False, detail=f"no number{carrying} in the answer")
    chosen, how = _pick(text, numbers, options)
    if chosen is None:
        return ungraded(how)
    if chosen.value is None:
        return ungraded(f"{chosen.text.strip()} is not evaluated")
    right = any(_equal(chosen, number, options) for number in wanted)
    return right_or_wrong(right=right, detail=f"{chosen.text} {how}, reference {reference}")


def _only(reference: str) -> Number:
    numbers = find_numbers(plain_notation(readable(reference)))
    if len(numbers) != 1 or numbers[0].value is None:
        raise InputError(
            "a numeric reference must hold one number",
            value=reference,
            remedy="Separate alternatives by `|`, or choose another grader",
        )
    return numbers[0]


def _pick(
    text: str, numbers: list[Number], options: Mapping[str, Any]
) -> tuple[Number | None, str]:
    marked = _marked(text, numbers)
    if marked and (marked[-1] not in numbers or not _hedged(text, numbers, marked[-1])):
        return marked[-1], "marked as result"
    unit = options.get("unit")
    united = [number for number in numbers if unit and carries(text, number, str(unit))]
    if united:
        return united[-1], f"with unit {unit}"
    if len({number.value for number in numbers}) == 1:
        return _whole(text, numbers[-1]), "the only number"
    shown = ", ".join(number.text for number in numbers[-5:])
    last = _last_result(text, numbers)
    if options.get("pick", "last") == "only" or _hedged(text, numbers, last):
        return None, f"several numbers: {shown}"
    return _whole(text, last), "the last number"


def _marked(text: str, numbers: list[Number]) -> list[Number]:
    """Return the numbers that stand right after a word or sign that announces the result."""
    found = list(boxed_results(text))
    for match in _RESULT.finditer(text):
        filler = _FILLER.match(text, match.end())
        reach = filler.end() if filler else match.end()
        after = next((number for number in numbers if number.start >= match.end()), None)
        # A number's start takes its sign and currency in, which the filler may have eaten.
        if after is not None and after.start <= reach:
            calculates = _CALCULATION.match(text, after.end)
            found.append(replace(after, value=None) if calculates else _whole(text, after))
    found += [_whole(text, number) for number in _in_fields(text, numbers)]
    return sorted(found, key=lambda number: number.start)


def _in_fields(text: str, numbers: list[Number]) -> Iterator[Number]:
    """Yield the only number of a sentence that stands in a JSON field `answer`."""
    for match in _FIELD.finditer(text):
        inside = [one for one in numbers if match.start(1) <= one.start and one.end <= match.end(1)]
        if len(inside) == 1:
            yield inside[0]


def _whole(text: str, number: Number) -> Number:
    """Return a number; without its value where it is only a part of a term, as in 2x or p - 2."""
    goes_on = GOES_ON.match(text, number.end)
    is_part = goes_on is not None and not is_unit(goes_on[0].strip())
    if is_part or _TERM_BEFORE.search(text[max(0, number.start - 8) : number.start]):
        return replace(number, value=None)
    return number


def _last_result(text: str, numbers: list[Number]) -> Number:
    equals = text.rfind("=")
    after = [number for number in numbers if number.start > equals >= 0]
    return after[0] if after else numbers[-1]


def _hedged(text: str, numbers: list[Number], chosen: Number) -> bool:
    """Whether "or", "and" or "to" joins the chosen number to a different one."""
    index = numbers.index(chosen)
    pairs = [(numbers[i], numbers[i + 1]) for i in (index - 1, index) if 0 <= i < len(numbers) - 1]
    return any(
        left.value != right.value and _HEDGE.fullmatch(text[left.end : right.start])
        for left, right in pairs
    )


def _equal(said: Number, wanted: Number, options: Mapping[str, Any]) -> bool:
    if said.value is None or wanted.value is None:
        return False
    absolute = Fraction(str(options.get("tolerance", 0)))
    relative = Fraction(str(options.get("relative_tolerance", "1e-9")))
    allowed = max(absolute, abs(wanted.value) * relative)
    # "50 %" answers both a reference of 50, asked for in percent, and one of 0.5.
    readings = [said.value]
    if said.percent != wanted.percent:
        readings.append(said.value / 100 if said.percent else said.value * 100)
    if said.percent == wanted.percent or said.percent:
        return any(abs(value - wanted.value) <= allowed for value in readings)
    return abs(said.value - wanted.value) <= allowed
