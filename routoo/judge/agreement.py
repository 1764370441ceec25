"""Says whether two answers to one prompt state the same result, without knowing the right one."""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Int8

from routoo.judge.reading import AnswerReading, numbers_in, options_of, read_answer

_LONGEST_LITERAL = 2000
_CLOSE = 1e-6
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]frac")
_LAYOUT = re.compile(r"\\(?:left|right)|\\[,;:! ]|[$*`\s]")
_MARKS = " .,;:\"'"
_STRUCTURE = re.compile(r"[\[\](){}'\"\\^/+*]")
"""What a text holds that is more than a number with its unit."""
_WORD_OF_RESULT = re.compile(r"[^\W\d_]{2,}")


class Agreement(IntEnum):
    """Whether two answers state the same result."""

    UNKNOWN = 0
    """One of them states none that can be read."""
    DIFFERENT = 1
    SAME = 2


@dataclass(frozen=True, slots=True)
class StatedResult:
    """What an answer states at last, in the forms in which it is compared."""

    has_options: bool
    letter: str
    """Of the option that it chooses; empty where there is none."""
    text: str
    """Without space, layout and case."""
    literal: str | None
    """A Python literal in one spelling; None where it is none."""
    number: float | None
    """Where it is one number and no more than a word beside it."""

    @classmethod
    def of(cls, prompt: str, answer: str) -> "StatedResult":
        """Read the result that an answer to a prompt states."""
        return cls.read(read_answer(prompt, answer))

    @classmethod
    def read(cls, reading: AnswerReading) -> "StatedResult":
        """Take the result from an answer that was read."""
        final = reading.final
        return cls(
            bool(reading.options), reading.letter, _plain(final), _literal(final), _number(final)
        )

    def agreement(self, other: "StatedResult") -> Agreement:
        """Compare with what another answer to the same prompt states."""
        if self.has_options:
            if not (self.letter and other.letter):
                return Agreement.UNKNOWN
            return _verdict(same=self.letter == other.letter)
        if not (self.text and other.text):
            return Agreement.UNKNOWN
        if self.number is not None and other.number is not None:
            size = max(abs(self.number), abs(other.number), 1.0)
            return _verdict(same=abs(self.number - other.number) <= _CLOSE * size)
        if self.literal is not None and other.literal is not None:
            return _verdict(same=self.literal == other.literal)
        return _verdict(same=self.text == other.text)


def is_open(prompt: str) -> bool:
    """Return whether a prompt offers no options: few ways of being wrong make agreement cheap."""
    return not options_of(prompt)


def agreements(
    first: Sequence[StatedResult], second: Sequence[StatedResult]
) -> Int8[np.ndarray, " answers"]:
    """Compare two models' answers to the same prompts."""
    pairs = zip(first, second, strict=True)
    return np.array([one.agreement(other) for one, other in pairs], np.int8)


def _verdict(*, same: bool) -> Agreement:
    return Agreement.SAME if same else Agreement.DIFFERENT


def _plain(text: str) -> str:
    text = _TEXT_COMMAND.sub(r"\1", _FRACTION.sub(r"\\frac", text))
    return _LAYOUT.sub("", text).casefold().strip(_MARKS)


def _literal(text: str) -> str | None:
    if not text or len(text) > _LONGEST_LITERAL:
        return None
    try:
        return repr(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _number(text: str) -> float | None:
    if _STRUCTURE.search(text):
        return None
    found = numbers_in(text.replace("$", " "))
    words = _WORD_OF_RESULT.findall(text)
    return found[0] if len(found) == 1 and len(words) <= 1 else None
