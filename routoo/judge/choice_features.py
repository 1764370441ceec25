"""The features of a choice among options: how it stands beside the others, and how it was made.

Options tell of each other. Whoever writes wrong ones beside a right one varies it: a number far
from all others is seldom right. All is counted without a model.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float32

from routoo.judge.reading import AnswerReading, number_in, numbers_in

_NAMED = re.compile(r"\(([A-P])\)|\b[Oo]ptions? ([A-P])\b")
_DECIMALS = re.compile(r"\d\.(\d+)")
_KINDS = str.maketrans(
    {
        **dict.fromkeys("0123456789", "0"),
        **dict.fromkeys("abcdefghijklmnopqrstuvwxyz", "a"),
        **dict.fromkeys("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "A"),
    }
)
_FACTORS = (-1.0, 2.0, 0.5, 10.0, 0.1, 3.0, 1 / 3, 4.0, 0.25, 100.0, 0.01, 1.5, 2 / 3)
"""By which wrong numbers are often made of right ones."""
_LEAST_NUMBERS = 3
_LAST = 3  # so many numbers of the reasoning count as its result
_FAR, _TINY = 6.0, 1e-9
_AMID, _OWN, _MARGIN, _STYLE = 6, 5, 3, 10
_log = math.log1p


def choice_features(reading: AnswerReading) -> Float32[np.ndarray, " features"]:
    """Return the features of what an answer chose; most are 0 where it chose no option."""
    values = [*_named(reading), len(reading.reasoning) / max(len(reading.text), 1)]
    if not reading.letter:
        values += [0.0] * (_AMID + _OWN + _MARGIN + _STYLE)
        return np.asarray(values, np.float32)
    options = list(reading.options.values())
    chosen = list(reading.options).index(reading.letter)
    numbers = [number_in(option) for option in options]
    values += [
        *_amid(numbers, chosen),
        *_own_number(reading, options, numbers, chosen),
        *_margin(reading, numbers, chosen),
        *_style(options, chosen),
    ]
    return np.asarray(values, np.float32)


def _named(reading: AnswerReading) -> list[float]:
    """Return how many options the reasoning names, and whether the chosen one is among them."""
    letters = [one or other for one, other in _NAMED.findall(reading.reasoning)]
    return [
        _log(len(set(letters))),
        float(letters[-1:] == [reading.letter]),
        float(letters[:1] == [reading.letter]),
        letters.count(reading.letter) / max(len(letters), 1),
    ]


def _amid(numbers: Sequence[float | None], chosen: int) -> list[float]:
    """Return how far the chosen number is from the others', as logarithms, and its ranks."""
    own = numbers[chosen]
    known = [math.log(abs(number)) for number in numbers if number]
    if not own or len(known) < _LEAST_NUMBERS:
        return [-1.0] * _AMID
    at = sum(bool(number) for number in numbers[:chosen])
    middle = sorted(known)[len(known) // 2]
    from_middle = [abs(value - middle) for value in known]
    gaps = [[abs(value - other) for other in known] for value in known]
    means = [sum(gap) / (len(known) - 1) for gap in gaps]
    nearest = [min(*gap[:place], *gap[place + 1 :], _FAR) for place, gap in enumerate(gaps)]
    return [
        value
        for part in (from_middle, means, nearest)
        for value in (_rank(part, at), min(part[at], _FAR))
    ]


def _own_number(
    reading: AnswerReading, options: Sequence[str], numbers: Sequence[float | None], chosen: int
) -> list[float]:
    own = numbers[chosen]
    if own is None:
        return [-1.0] * _OWN
    stem = reading.prompt[: max(reading.prompt.find(options[0]), 0)]
    asked = set(numbers_in(stem))
    return [
        float(own in asked),
        sum(number in asked for number in numbers) / len(numbers),
        float(own == round(own)),
        float(own != 0 and own % 10 == 0),
        min(_log(abs(own)), 30.0),
    ]


def _margin(reading: AnswerReading, numbers: Sequence[float | None], chosen: int) -> list[float]:
    """Return by how much nearer the reasoning's result is to the chosen number than to others."""
    own, last = numbers[chosen], reading.numbers[-_LAST:]
    if own is None or not last:
        return [0.0, -1.0, 0.0]
    apart = [
        1.0 if x is None else min(abs(x - y) / max(abs(x), abs(y), _TINY) for y in last)
        for x in numbers
    ]
    others = [value for place, value in enumerate(apart) if place != chosen]
    nearer = _log(100 * min(*others, 1.0)) - _log(100 * min(apart[chosen], 1.0))
    made = sum(
        any(math.isclose(number, own * by) for by in _FACTORS) for number in numbers if number
    )
    return [nearer, sum(value < apart[chosen] for value in others) / len(numbers), _log(made)]


def _style(options: Sequence[str], chosen: int) -> list[float]:
    """Return how the chosen option is written beside the others."""
    words = list(map(set, map(str.split, map(str.lower, options))))
    count = Counter(chain.from_iterable(words))
    shared = [sum(map(count.__getitem__, some)) / max(len(some), 1) for some in words]
    forms = _forms(options)
    stops = [option.endswith((".", ". ")) for option in options]
    capitals = [option[:1].isupper() for option in options]
    decimals = [_decimals(option) for option in options]
    lengths = list(map(len, words))
    return [
        shared[chosen] / len(options),
        _rank(shared, chosen),
        *(_share(part, chosen) for part in (forms, stops, capitals, decimals)),
        _rank([float(forms.count(form)) for form in forms], chosen),
        _rank([*map(float, lengths)], chosen),
        lengths[chosen] / max(sum(lengths) / len(lengths), 1.0),
        float(decimals[chosen]),
    ]


def _forms(options: Sequence[str]) -> list[str]:
    """Return how each option is written: runs of digits and letters as one of each kind."""
    text = "\n".join(options).translate(_KINDS)
    for kind in "0aA":
        while kind * 2 in text:
            text = text.replace(kind * 2, kind)
    return text.split("\n")


def _decimals(option: str) -> int:
    found = _DECIMALS.search(option)
    return 0 if found is None else min(len(found[1]), 9)


def _share(values: list[Any], chosen: int) -> float:
    """Return the share of the options that are like the chosen one."""
    return values.count(values[chosen]) / len(values)


def _rank(values: list[float], chosen: int) -> float:
    """Return the share of the others whose value is lower, ties counting half."""
    own = values[chosen]
    lower = sum([value < own for value in values])  # a list is summed faster than a generator
    return (lower + (values.count(own) - 1) / 2) / max(len(values) - 1, 1)
