"""Finds the unit behind a number and converts the number into another unit, exactly."""

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from routoo.evaluation.graders.numeric.numbers import Number

_METRE, _GRAM, _SECOND, _LITRE = "length", "mass", "time", "volume"
# Signs that are words too ("in", "a", "t") are left out: "3 in total" is no length.
_UNITS: dict[str, tuple[str, Fraction]] = {
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
_SIGN = re.compile(r"[\s\u00a0-]{0,3}([a-zµ]+(?:/[a-z]+)?)(?![\w/])", re.IGNORECASE)


def in_unit(text: str, numbers: list[Number], unit: str) -> Iterator[Number]:
    """Yield the numbers with their values converted into a unit.

    A number with a known unit of another dimension is left out: seconds where metres are wanted.
    One without a known unit stays as it is.
    """
    wanted = _find(unit)
    for number in numbers:
        sign = _SIGN.match(text, number.end)
        found = _find(sign[1]) if sign else None
        if wanted is None or found is None:
            yield number
        elif found[0] == wanted[0] and number.value is not None:
            yield replace(number, value=number.value * found[1] / wanted[1])


def carries(text: str, number: Number, unit: str) -> bool:
    """Whether a number is followed by a unit, or by one that can be converted into it."""
    if re.match(rf"\s{{0,4}}{re.escape(unit)}(?!\w)", text[number.end :], re.IGNORECASE):
        return True
    sign, wanted = _SIGN.match(text, number.end), _find(unit)
    found = _find(sign[1]) if sign else None
    return found is not None and wanted is not None and found[0] == wanted[0]


def is_unit(name: str) -> bool:
    """Whether a unit of this name is known."""
    return _find(name) is not None


def _find(name: str) -> tuple[str, Fraction] | None:
    folded = name.lower()
    return (
        _UNITS.get(folded)
        or _UNITS.get(folded.removesuffix("s"))
        or _UNITS.get(folded.removesuffix("es"))
    )
