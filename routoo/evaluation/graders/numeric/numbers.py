"""Finds numbers in running text, reads their exact values, and converts units of one kind."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from routoo.evaluation.graders.numeric.expressions import Evaluated, evaluate

_METRE, _GRAM, _SECOND, _LITRE = "length", "mass", "time", "volume"
# Signs that are words too ("in", "a", "t") are left out: "3 in total" is no length.
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
SCALE_NAMES = frozenset(_SCALES)
_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
_GROUPED = r"\d{1,3}(?:[,\u00a0'_]\d{3})+(?:\.\d+)?"  # 1,234,567.8 with any separator
_SCALE = rf"(?:\s(?P<scale>{'|'.join(_SCALES)})\b)?"
_NUMBER = re.compile(
    r"(?<![\w.])(?:(?P<whole>\d+)\s)?(?P<above>\d+)\s?/\s?(?P<below>\d+)(?![\w/]|\.\d)"
    rf"|(?<![\d.])(?P<plain>{_GROUPED}|\d+[.,]\d+|\d+|\.\d+)(?:[eE](?P<power>[-+]?\d+))?{_SCALE}"
)
_WORD_NUMBER = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})(?:[-\s](?P<digit>{'|'.join(_UNITS[1:10])}))?"
    rf"|(?P<unit>{'|'.join(_UNITS)})){_SCALE}\b",
    re.IGNORECASE,
)
_LATEX_GROUP = re.compile(r"(?<=\d)(?:\{,\}|,?\\[,;:! ])\s?(?=\d{3}(?!\d))")
_DEGREES = re.compile(r"\s?\^\s?(?:\{\s?\\circ\s?\}|\\circ\b)|\\degree\b")
_EXPRESSION = re.compile(r"(?<![\w.])\d|\.\d|\\(?:[dtc]?frac|sqrt|pi)(?![a-z])|[\u221a\u03c0]")
"""Where an expression may start."""
_COMPOUND = re.compile(r"\\[a-z]|[\^\u221a\u03c0\u00d7\u00b7]")
"""Signs of which a text has one where it holds expressions other than plain numbers."""
GOES_ON = re.compile(
    r"\^|_\{?\d|\\(?:sqrt|pi|[dtc]?frac|overline|infty|pm|times|cdot)\b|\(?[a-zA-Z](?![a-zA-Z'])"
)
_PERCENT = re.compile(r"\s*(?:\\?%|percent\b|per cent\b)")
_SIGN = re.compile(r"(?<![\w)\]}])-[$€£]?\Z")
"""A hyphen is a sign only where it joins nothing: not in "7-3", "7 - 3" or "COVID-19"."""
_BLOT = "\x00"
_LARGEST_POWER = 400
"""Powers of ten beyond any double: not a number that anyone means."""

_SUPERSCRIPTS = "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
_FROM_SUPERSCRIPTS = str.maketrans(_SUPERSCRIPTS, "-0123456789")


@dataclass(frozen=True, slots=True)
class Number:
    """A number that stands in a text."""

    value: Fraction | None
    """None for an expression that can't be evaluated."""
    text: str
    start: int
    """Offset in the text, sign included."""
    end: int
    percent: bool


def plain_notation(text: str) -> str:
    r"""Return a text with powers of ten, fractions and digits in one plain notation.

    `2.5 x 10^3` becomes 2.5e3, `10^3` 1e3, one-character fractions a/b, `9{,}500` and `9\,500`
    9,500, and the digits of other scripts those of ASCII. Degrees lose their sign.
    """
    text = _LATEX_GROUP.sub(",", text.replace("\\\\", "\\"))
    text = _DEGREES.sub("", text)
    raised = re.compile(rf"(?<=10)[{_SUPERSCRIPTS}]+")
    text = raised.sub(lambda match: "^" + match[0].translate(_FROM_SUPERSCRIPTS), text)
    text = re.sub(
        r"(?<=\d)\s?(?:[x\u00d7*\u00b7]|\\times|\\cdot)\s?10\s?\^\s?\{?(-?\d+)\}?", r"e\1", text
    )
    text = re.sub(r"(?<![\d.e])10\s?\^\s?\{?(-?\d+)\}?", r"1e\1", text)
    return "".join(_plain_character(character) for character in text)


def _plain_character(character: str) -> str:
    if character.isascii():
        return character
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    if unicodedata.decomposition(character).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", character).replace("\u2044", "/")
    return character


def find_numbers(text: str) -> list[Number]:
    r"""Return the numbers of a text in plain notation, in order.

    Written-out numbers count only where there are no digits. An expression such as `3\sqrt{2}` is
    one number.
    """
    compound = _expressions(text) if _COMPOUND.search(text) else []
    rest = _without(text, compound)
    digits = [_number(rest, match) for match in _NUMBER.finditer(rest)]
    found = [number for number in digits if number is not None] + compound
    found.sort(key=lambda number: number.start)
    return found or [_word_number(text, match) for match in _WORD_NUMBER.finditer(text)]


def _expressions(text: str) -> list[Number]:
    """Return the expressions that are more than plain numbers."""
    found: list[Number] = []
    at = 0
    while match := _EXPRESSION.search(text, at):
        start, at = match.start(), match.end()
        read = evaluate(text, start)
        if read is not None and read.is_compound:
            at = max(at, read.end)
            found.append(_expression(text, start, replace(read, end=at)))
        elif read is not None and match[0][-1].isdigit():
            at = _digits_end(text, at)
    return found


def _expression(text: str, start: int, read: Evaluated) -> Number:
    value, sign = read.value, _SIGN.search(text[max(0, start - 3) : start])
    if value is not None and GOES_ON.match(text, read.end):
        value = None
    if sign is not None:
        start, value = start - len(sign[0]), None if value is None else _negated(text, start, read)
    percent = _PERCENT.match(text, read.end) is not None
    return Number(value, text[start : read.end], start, read.end, percent)


def _negated(text: str, start: int, read: Evaluated) -> Fraction | None:
    """Return the value of an expression with a minus sign before its first term."""
    whole = evaluate(f"-{text[start : read.end]}")
    return None if whole is None or whole.end != read.end - start + 1 else whole.value


def _digits_end(text: str, at: int) -> int:
    while at < len(text) and (text[at].isdigit() or text[at] in ",."):
        at += 1
    return at


def _without(text: str, numbers: Iterable[Number]) -> str:
    """Return a text with spaces in place of its expressions, so that offsets stay."""
    for number in numbers:
        text = text[: number.start] + _BLOT * (number.end - number.start) + text[number.end :]
    return text


def _number(text: str, match: re.Match[str]) -> Number | None:
    value = _value(match)
    if value is None:
        return None
    start = match.start()
    sign = _SIGN.search(text[max(0, start - 3) : start])
    if sign:
        start, value = start - len(sign[0]), -value
    percent = _PERCENT.match(text, match.end()) is not None
    return Number(value, text[start : match.end()], start, match.end(), percent)


def _value(match: re.Match[str]) -> Fraction | None:
    if match["above"]:
        below, whole = int(match["below"]), int(match["whole"] or 0)
        return None if below == 0 else whole + Fraction(int(match["above"]), below)
    power = int(match["power"] or 0)
    if abs(power) > _LARGEST_POWER:
        return None
    return Fraction(_decimal(match["plain"])) * Fraction(10) ** power * _scale(match)


def _scale(match: re.Match[str]) -> int:
    return _SCALES.get((match["scale"] or "").lower(), 1)


def _decimal(text: str) -> str:
    if re.fullmatch(_GROUPED, text):
        return re.sub(r"[^\d.]", "", text)
    return text.replace(",", ".")  # 3,14: a decimal comma, since a group would have three digits


def _word_number(text: str, match: re.Match[str]) -> Number:
    parts = (match["tens"], match["digit"], match["unit"])
    value = sum(_WORDS[part.lower()] for part in parts if part) * _scale(match)
    percent = _PERCENT.match(text, match.end()) is not None
    return Number(Fraction(value), match[0], match.start(), match.end(), percent)


_UNITS_OF_MEASURE: dict[str, tuple[str, Fraction]] = {
    name: (dimension, Fraction(scale))
    for dimension, scales in {
        _METRE: {
            "nm nanometer nanometre": "1e-9",
            "um µm micrometer micrometre micron": "1e-6",
            "mm millimeter millimetre": "0.001",
            "cm centimeter centimetre": "0.01",
            "dm decimeter decimetre": "0.1",
            "m meter metre": "1",
            "km kilometer kilometre": "1000",
            "inch": "0.0254",
            "ft foot feet": "0.3048",
            "yd yard": "0.9144",
            "mi mile": "1609.344",
        },
        _GRAM: {
            "mg milligram": "0.001",
            "g gram": "1",
            "kg kilogram": "1000",
            "tonne": "1e6",
            "oz ounce": "28.349523125",
            "lb lbs pound": "453.59237",
        },
        _SECOND: {
            "ms millisecond": "0.001",
            "s sec second": "1",
            "min minute": "60",
            "h hr hrs hour": "3600",
            "day": "86400",
            "week": "604800",
        },
        _LITRE: {
            "ml milliliter millilitre": "0.001",
            "cl centilitre": "0.01",
            "l liter litre": "1",
        },
        "energy": {"j joule": "1", "kj kilojoule": "1000", "kwh": "3600000", "cal": "4.184"},
        "power": {"w watt": "1", "kw kilowatt": "1000", "mw megawatt": "1e6"},
        "speed": {"m/s": "1", "km/h kph": "5/18", "mph": "0.44704"},
    }.items()
    for names, scale in scales.items()
    for name in names.split()
}
_UNIT_SIGN = re.compile(r"[\s\u00a0-]{0,3}([a-zµ]+(?:/[a-z]+)?)(?![\w/])", re.IGNORECASE)


def in_unit(text: str, numbers: list[Number], unit: str) -> Iterator[Number]:
    """Yield the numbers with their values converted into a unit.

    A number with a known unit of another dimension is left out: seconds where metres are wanted.
    One without a known unit stays as it is.
    """
    wanted = _find(unit)
    for number in numbers:
        sign = _UNIT_SIGN.match(text, number.end)
        found = _find(sign[1]) if sign else None
        if wanted is None or found is None:
            yield number
        elif found[0] == wanted[0] and number.value is not None:
            yield replace(number, value=number.value * found[1] / wanted[1])


def carries(text: str, number: Number, unit: str) -> bool:
    """Whether a number is followed by a unit, or by one that can be converted into it."""
    if re.match(rf"\s{{0,4}}{re.escape(unit)}(?!\w)", text[number.end :], re.IGNORECASE):
        return True
    sign, wanted = _UNIT_SIGN.match(text, number.end), _find(unit)
    found = _find(sign[1]) if sign else None
    return found is not None and wanted is not None and found[0] == wanted[0]


def is_unit(name: str) -> bool:
    """Whether a unit of this name is known."""
    return _find(name) is not None


def _find(name: str) -> tuple[str, Fraction] | None:
    folded = name.lower()
    return (
        _UNITS_OF_MEASURE.get(folded)
        or _UNITS_OF_MEASURE.get(folded.removesuffix("s"))
        or _UNITS_OF_MEASURE.get(folded.removesuffix("es"))
    )
