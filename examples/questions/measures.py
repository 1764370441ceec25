"""Units, dates and small logic."""

from collections.abc import Callable
from datetime import date, timedelta
from random import Random

from examples.questions.question import Question

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_UNITS = (
    ("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24),
    ("weeks", "days", 7), ("kilometres", "metres", 1000), ("metres", "centimetres", 100),
    ("kilograms", "grams", 1000), ("litres", "millilitres", 1000), ("dozen", "single pieces", 12),
    ("years", "months", 12), ("feet", "inches", 12), ("centimetres", "millimetres", 10),
)  # fmt: skip
_NAMES = ("Eva", "Raj", "Kim", "Leo", "Sara", "Noah", "Ines")


def measures(rng: Random, count: int) -> list[Question]:
    """Return exercises on units, dates and order, the kinds taken in turn."""
    return [_KINDS[number % len(_KINDS)](rng) for number in range(count)]


def _convert(rng: Random) -> Question:
    large, small, factor = rng.choice(_UNITS)
    amount = rng.randint(2, 9)
    text = f"How many {small} are {amount} {large}?"
    return Question("measures", "numeric", str(amount * factor), text)


def _weekday(rng: Random) -> Question:
    today, shift = rng.randrange(7), rng.randint(2, 12)
    later = rng.random() < 0.6
    answer = _DAYS[(today + (shift if later else -shift)) % 7]
    asked = f"will it be in {shift} days" if later else f"was it {shift} days ago"
    text = f"Today is {_DAYS[today]}. Which day of the week {asked}?"
    return Question("measures", "contains", answer, text)


def _clock(rng: Random) -> Question:
    start, minutes = 15 * rng.randint(30, 80), 5 * rng.randint(5, 25)
    end = start + minutes
    text = f"A meeting starts at {_time(start)} and takes {minutes} minutes."
    reference = rf"\b{end // 60}:{end % 60:02}\b"
    return Question("measures", "regex", reference, f"{text} When does it end, as HH:MM?")


def _between(rng: Random) -> Question:
    first = date(2023, 1, 1) + timedelta(days=rng.randint(0, 300))
    second = first + timedelta(days=rng.randint(5, 40))
    text = f"How many days after {first:%-d %B} is {second:%-d %B} of the same year (no leap year)?"
    return Question("measures", "numeric", str((second - first).days), text)


def _order(rng: Random) -> Question:
    tall, middle, small = rng.sample(_NAMES, 3)
    ask, answer = rng.choice((("tallest", tall), ("shortest", small)))
    text = f"{tall} is taller than {middle}, and {middle} is taller than {small}."
    return Question("logic", "contains", answer, f"{text} Who is the {ask}?")


def _compare(rng: Random) -> Question:
    first, second = rng.sample((0.5, 0.45, 0.6, 0.07, 0.75, 0.8, 0.125, 1.2, 1.15), 2)
    answer = "yes" if first > second else "no"
    text = f"Is {first} larger than {second}? Say yes or no."
    return Question("logic", "contains", answer, text)


def _time(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02}"


_KINDS: tuple[Callable[[Random], Question], ...] = (
    _convert, _weekday, _clock, _between, _order, _compare,
)  # fmt: skip
