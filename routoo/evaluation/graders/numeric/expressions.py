r"""Evaluates arithmetic as models write it, in LaTeX or plainly: `3\sqrt{2}`, `2^{10}`, `2\pi`.

Values are exact fractions as far as they are rational, and else as exact as a double. Whatever is
not understood to its end is not evaluated at all.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

_SPACE = re.compile(r"(?:\s|\\[,;:! ]|\\quad\b|~|\\left\b|\\right\b|\\displaystyle\b)*")
_NUMBER = re.compile(
    r"(?:\d{1,3}(?:[,\u00a0'_]\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3})?|\.\d+"
)
_WHOLE, _DIGIT = re.compile(r"\d+"), re.compile(r"\d")
_FRACTION = re.compile(r"\\[dtc]?frac(?![a-z])")
_ROOT = re.compile(r"\\sqrt(?![a-z])|\u221a")
_PI = re.compile(r"\\pi(?![a-z])|\u03c0")
_TIMES = re.compile(r"\\times(?![a-z])|\\cdot(?![a-z])|[\u00d7\u00b7]|\*(?!\*)")
_DIVIDE = re.compile(r"\\div(?![a-z])|[/\u00f7]")
_CLOSING = {"(": ")", "{": "}", "[": "]"}
_MOST_DEPTH = 20
_MOST_POWER = 1_000
_MOST_BITS = 10_000

_Value = Fraction | float


class _NotUnderstoodError(ValueError):
    """The text goes on in a way that is not arithmetic."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An expression in a text."""

    value: Fraction | None
    """None where it is one that can't be evaluated, such as one with a variable."""
    end: int
    """Offset in the text behind it."""
    is_compound: bool
    """Whether it is more than digits, signs and differences of numbers."""


def evaluate(text: str, start: int = 0) -> Evaluated | None:
    """Evaluate the longest expression that starts at an offset, None where none does."""
    reader = _Reader(text, start)
    try:
        value = reader.sum()
    except (_NotUnderstoodError, ArithmeticError):
        return Evaluated(None, reader.at, is_compound=True) if reader.is_compound else None
    return Evaluated(_fraction(value), reader.at, reader.is_compound)


def _fraction(value: _Value) -> Fraction | None:
    if isinstance(value, Fraction):
        return value
    return Fraction(value) if math.isfinite(value) else None


class _Reader:
    """Reads one expression from a text, by recursive descent."""

    def __init__(self, text: str, at: int) -> None:
        self._text, self.at, self._depth = text, at, 0
        self.is_compound = False

    def sum(self) -> _Value:
        """Return the value of terms that are added and subtracted."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise _NotUnderstoodError
        total = self._signed_term()
        while sign := self._takes_sign():
            term = self._term_behind_sign()
            if term is None:
                break
            total = total + term if sign == "+" else total - term
        self._depth -= 1
        return total

    def _takes_sign(self) -> str:
        self._skip_space()
        sign = self._text[self.at : self.at + 1]
        return sign if sign in {"+", "-"} else ""

    def _term_behind_sign(self) -> _Value | None:
        """Return the term behind a sign; None, and nothing read, for a dash between words."""
        before, self.at = self.at, self.at + 1
        self._skip_space()
        if not self._starts_factor():
            self.at = before
            return None
        return self._term()

    def _signed_term(self) -> _Value:
        sign = 1
        while self._takes_sign():
            sign = -sign if self._text[self.at] == "-" else sign
            self.at += 1
        return sign * self._term()

    def _term(self) -> _Value:
        """Return the value of factors that are multiplied and divided."""
        start = self.at
        value = self._factor()
        whole = _WHOLE.fullmatch(self._text[start : self.at].strip()) is not None
        while True:
            behind = self.at
            self._skip_space()
            if self._takes(_TIMES):
                self.is_compound = True
                value = value * self._next_factor(behind)
            elif self._takes(_DIVIDE):
                value = value / self._next_factor(behind)
            elif _FRACTION.match(self._text, self.at):
                value = self._mixed(value, is_whole=whole)
            elif self._starts_product():
                value = value * self._factor()
            else:
                self.at = behind
                return value
            whole = False

    def _next_factor(self, behind: int) -> _Value:
        self._skip_space()
        sign = -1 if self._text[self.at : self.at + 1] == "-" else 1
        self.at += sign < 0
        if not self._starts_factor():
            self.at = behind
            raise _NotUnderstoodError
        return sign * self._factor()

    def _mixed(self, whole: _Value, *, is_whole: bool) -> _Value:
        r"""Return a mixed number such as `1\frac{1}{2}`, or a product with a fraction."""
        start = self.at
        fraction = self._factor()
        plain = re.fullmatch(
            r"\\[dtc]?frac\s*\{?\s*(\d+)\s*\}?\s*\{?\s*(\d+)\s*\}?", self._text[start : self.at]
        )
        if not is_whole or plain is None:
            return whole * fraction
        if fraction >= 1:
            raise _NotUnderstoodError  # neither a mixed number nor clearly a product
        return whole + fraction

    def _starts_factor(self) -> bool:
        return self._text[self.at : self.at + 1] in {"(", "{"} or any(
            pattern.match(self._text, self.at) for pattern in (_NUMBER, _FRACTION, _ROOT, _PI)
        )

    def _starts_product(self) -> bool:
        """Whether a factor follows without a sign of multiplication."""
        at_bracket = self._text[self.at : self.at + 1] == "(" and self.is_compound
        return at_bracket or any(pattern.match(self._text, self.at) for pattern in (_ROOT, _PI))

    def _factor(self) -> _Value:
        base = self._base()
        if self._text[self.at : self.at + 1] != "^":
            return base
        self.at += 1
        self.is_compound = True
        exponent = self._argument(_WHOLE)
        if self._text[self.at : self.at + 1] == "^":
            raise _NotUnderstoodError
        return _power(base, exponent)

    def _base(self) -> _Value:
        self._skip_space()
        if self._takes(_FRACTION):
            self.is_compound = True
            above, below = self._argument(_DIGIT), self._argument(_DIGIT)
            return above / below
        if self._takes(_ROOT):
            self.is_compound = True
            degree = self._bracketed("[") if self._text[self.at : self.at + 1] == "[" else 2
            return _power(self._argument(_DIGIT), 1 / Fraction(degree))
        if self._takes(_PI):
            self.is_compound = True
            return math.pi
        if self._text[self.at : self.at + 1] in {"(", "{"}:
            return self._bracketed(self._text[self.at])
        return self._number()

    def _argument(self, bare: re.Pattern[str]) -> _Value:
        r"""Return what `\frac`, `\sqrt` or `^` applies to: in brackets, or without them.

        Args:
            bare: A number without brackets: LaTeX takes one digit of `\frac12`, while `2^10` means
                the tenth power to everybody who writes it.
        """
        self._skip_space()
        sign = -1 if self._text[self.at : self.at + 1] == "-" else 1
        self.at += sign < 0
        found = bare.match(self._text, self.at)
        if found is None:
            return sign * self._base()
        self.at = found.end()
        return sign * Fraction(found[0])

    def _bracketed(self, opening: str) -> _Value:
        self.at += 1
        value = self.sum()
        self._skip_space()
        if self._text[self.at : self.at + 1] != _CLOSING[opening]:
            raise _NotUnderstoodError
        self.at += 1
        return value

    def _number(self) -> _Value:
        found = _NUMBER.match(self._text, self.at)
        if found is None:
            raise _NotUnderstoodError
        self.at = found.end()
        return Fraction(re.sub(r"[,\u00a0'_]", "", found[0]))

    def _takes(self, pattern: re.Pattern[str]) -> bool:
        found = pattern.match(self._text, self.at)
        self.at = self.at if found is None else found.end()
        return found is not None

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self.at)
        self.at = self.at if found is None else found.end()


def _power(base: _Value, exponent: _Value) -> _Value:
    if not -_MOST_POWER <= exponent <= _MOST_POWER:
        raise _NotUnderstoodError
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        exact = _exact_power(base, exponent)
        if exact is not None:
            return exact
    if base < 0:
        raise _NotUnderstoodError
    power: float = float(base) ** float(exponent)
    return power


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    """Return a power that is rational, None where it may not be, or would be very large."""
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if size * abs(exponent.numerator) > _MOST_BITS:
        raise _NotUnderstoodError
    power = base**exponent.numerator
    if exponent.denominator == 1:
        return power
    roots = [_root(part, exponent.denominator) for part in (power.numerator, power.denominator)]
    return Fraction(*roots) if None not in roots else None  # type: ignore[arg-type]  # just checked


def _root(number: int, degree: int) -> int | None:
    """Return the whole root of a number, None where there is none."""
    if number < 0 and degree % 2 == 0:
        raise _NotUnderstoodError
    root = round(abs(number) ** (1 / degree)) if abs(number) < 2**1000 else 0
    signed = -root if number < 0 else root
    return signed if signed**degree == number else None
