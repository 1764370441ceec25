"""Arithmetic of graded difficulty, from one digit to three."""

import math
from collections.abc import Callable
from random import Random

from examples.questions.question import Question


def arithmetic(rng: Random, count: int) -> list[Question]:
    """Return exercises, the kinds taken in turn."""
    return [
        Question("arithmetic", "numeric", str(answer), text)
        for text, answer in (_KINDS[number % len(_KINDS)](rng) for number in range(count))
    ]


def _add(rng: Random) -> tuple[str, int]:
    top = rng.choice((9, 60, 900, 5000))
    a, b = rng.randint(2, top), rng.randint(2, top)
    return rng.choice((f"What is {a} + {b}?", f"Add {a} and {b}.", f"Compute {a} plus {b}.")), a + b


def _subtract(rng: Random) -> tuple[str, int]:
    top = rng.choice((15, 90, 900, 5000))
    b, a = sorted((rng.randint(2, top), rng.randint(2, top)))
    asked = (f"What is {a} - {b}?", f"Subtract {b} from {a}.", f"What is {a} minus {b}?")
    return rng.choice(asked), a - b


def _multiply(rng: Random) -> tuple[str, int]:
    top_a, top_b = rng.choice(((9, 9), (20, 9), (60, 40), (400, 40)))
    a, b = rng.randint(2, top_a), rng.randint(2, top_b)
    asked = (f"What is {a} * {b}?", f"What is {a} times {b}?", f"Multiply {a} by {b}.")
    return rng.choice(asked), a * b


def _divide(rng: Random) -> tuple[str, int]:
    top_a, top_b = rng.choice(((9, 9), (20, 12), (60, 30)))
    quotient, b = rng.randint(2, top_a), rng.randint(2, top_b)
    a = quotient * b
    return rng.choice((f"What is {a} / {b}?", f"Divide {a} by {b}.")), quotient


def _remainder(rng: Random) -> tuple[str, int]:
    a, b = rng.randint(10, 200), rng.randint(3, 12)
    return rng.choice((f"What remains when {a} is divided by {b}?", f"What is {a} mod {b}?")), a % b


def _percent(rng: Random) -> tuple[str, int]:
    percent, hundreds = rng.choice((5, 10, 20, 25, 30, 50, 75)), rng.randint(1, 9)
    base = 20 * rng.randint(1, 5) * hundreds
    return f"What is {percent} percent of {base}?", percent * base // 100


def _power(rng: Random) -> tuple[str, int]:
    a, b = rng.choice(((2, 4), (2, 7), (2, 10), (3, 3), (3, 4), (5, 3), (10, 4), (4, 3), (6, 2)))
    return rng.choice((f"What is {a} to the power of {b}?", f"Compute {a} ** {b}.")), a**b


def _square_root(rng: Random) -> tuple[str, int]:
    root = rng.randint(3, 25)
    return f"What is the square root of {root * root}?", root


def _order(rng: Random) -> tuple[str, int]:
    a, b, c = rng.randint(2, 20), rng.randint(2, 9), rng.randint(2, 9)
    form = rng.choice(("{a} + {b} * {c}", "({a} + {b}) * {c}", "{a} * {b} - {c}"))
    answer = {"{a} + {b} * {c}": a + b * c, "({a} + {b}) * {c}": (a + b) * c}.get(form, a * b - c)
    return f"What is {form.format(a=a, b=b, c=c)}?", answer


def _sequence(rng: Random) -> tuple[str, int]:
    start, step = rng.randint(1, 20), rng.randint(2, 12)
    terms = [start + step * index for index in range(5)]
    if rng.random() < 0.4:
        factor = rng.choice((2, 3))
        terms = [start * factor**index for index in range(5)]
    return f"Which number continues the row {', '.join(map(str, terms[:4]))}, ...?", terms[4]


def _divisor(rng: Random) -> tuple[str, int]:
    common = rng.randint(2, 12)
    a, b = common * rng.randint(2, 7), common * rng.randint(2, 7)
    if rng.random() < 0.5:
        return f"What is the greatest common divisor of {a} and {b}?", math.gcd(a, b)
    return f"What is the least common multiple of {a} and {b}?", math.lcm(a, b)


def _mean(rng: Random) -> tuple[str, int]:
    mean = rng.randint(5, 40)
    first, second = rng.randint(1, 4), rng.randint(1, 4)
    numbers = (mean - first, mean + second, mean + first - second)
    return f"What is the average of {', '.join(map(str, numbers))}?", mean


def _base(rng: Random) -> tuple[str, int]:
    number = rng.randint(5, 63)
    if rng.random() < 0.5:
        return f"Which decimal number is binary {number:b}?", number
    number += rng.randint(0, 190)
    return f"Which decimal number is hexadecimal {number:X}?", number


def _shopping(rng: Random) -> tuple[str, int]:
    price, count, paid = rng.randint(2, 15), rng.randint(2, 9), rng.choice((150, 200))
    item = rng.choice(("notebook", "ticket", "cup", "mango", "battery"))
    if rng.random() < 0.5:
        return f"One {item} costs {price} euros. What is the price of {count} in euros?", (
            price * count
        )
    text = f"Ali buys {count} times one {item} for {price} euros each and pays with {paid} euros."
    return f"{text} How many euros of change does he get?", paid - price * count


def _stock(rng: Random) -> tuple[str, int]:
    start, less, more = rng.randint(20, 90), rng.randint(3, 19), rng.randint(3, 40)
    thing, who = rng.choice(("stamps", "books", "eggs")), rng.choice(("Mia", "Omar", "Yuki"))
    text = f"{who} has {start} {thing}, loses {less} and then gets {more} more."
    return f"{text} How many {thing} are there now?", start - less + more


def _speed(rng: Random) -> tuple[str, int]:
    hours, speed = rng.randint(2, 6), 5 * rng.randint(4, 24)
    if rng.random() < 0.5:
        return f"A bus drives {speed} km per hour for {hours} hours. How many km is that?", (
            speed * hours
        )
    return (
        f"A cyclist needs {hours} hours for {speed * hours} km. How many km per hour is that?",
        speed,
    )


_KINDS: tuple[Callable[[Random], tuple[str, int]], ...] = (
    _add, _subtract, _multiply, _divide, _remainder, _percent, _power, _square_root, _order,
    _sequence, _divisor, _mean, _base, _shopping, _stock, _speed,
)  # fmt: skip
