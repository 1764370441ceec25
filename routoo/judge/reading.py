"""Reads an answer: what it states at last, and the reasoning that leads there."""

import math
import re
from dataclasses import dataclass
from enum import IntEnum

import orjson

MOST_CHARACTERS = 8000
"""Of a longer answer the first and the last half of so many are read."""
_SHORT_ANSWER = 60
_NUMBER = re.compile(r"[-\d](?<![\w.].)(?:(?<=\d)|\d)[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")
"""A pattern that starts with its characters is searched for several times as fast."""
_OPTION = re.compile(r"^[^\S\n]*\(?([A-P])[.):]\s*(.*)$", re.MULTILINE)
_FENCE = re.compile(r"```[a-z]*\n?")
_JSON_ANSWER = re.compile(r'"(?:final_)?answer"\s*:\s*("(?:[^"\\]|\\.)*"?|[^,}\n]*)', re.IGNORECASE)
_STATED = re.compile(
    r"[AaRrOoSs\u017fCc](?i:(?<=a)nswer|(?<=r)esult|(?<=o)utput|(?<=s)olution|(?<=c)hoice)"
    r"\s*(?i:is|are|would be|should be|:|=)+(?:\s*[:=])?\s*(?=([^\n]{1,160}))"
)
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_MARKED = re.compile(r"^####\s*(.+)$", re.MULTILINE)
_EQUALS = re.compile(r"==\s*([^\n]{1,160})")
_LETTER = re.compile(r"^\W*(?:option\s+|choice\s+)?([A-P])(?![A-Za-z'\d])", re.IGNORECASE)


class Form(IntEnum):
    """How an answer states what it arrives at."""

    NOWHERE = 0
    SHORT = 1
    """The answer consists of a few words."""
    SENTENCE = 2
    """After words such as "the answer is"."""
    BOXED = 3
    MARKED = 4
    """After #### or ==."""
    JSON = 5
    """As a value of JSON that can be read."""
    BROKEN_JSON = 6


@dataclass(frozen=True, slots=True)
class AnswerReading:
    """An answer to a prompt, taken apart."""

    prompt: str
    text: str
    """The answer, its middle left out where it is very long."""
    reasoning: str
    """All that stands before the final statement."""
    final: str
    """What it states at last; empty where nothing is found."""
    form: Form
    statements: tuple[str, ...]
    """All that it states to be the answer, the last one last."""
    options: dict[str, str]
    """The prompt's options by letter."""
    letter: str
    """Letter of the option that it chooses; empty where there is none."""
    numbers: tuple[float, ...]
    """Numbers of the reasoning, in their order."""
    prompt_numbers: tuple[float, ...]


def read_answer(prompt: str, answer: str) -> AnswerReading:
    """Take an answer apart."""
    text = _bounded(answer)
    form, statements, start = _statements(text)
    final = statements[-1].strip() if statements else ""
    options = options_of(prompt)
    letter = _letter(final, options)
    return AnswerReading(
        prompt=_bounded(prompt),
        text=text,
        reasoning=text[:start],
        final=final,
        form=form,
        statements=statements,
        options=options,
        letter=letter,
        numbers=numbers_in(text[:start]),
        prompt_numbers=numbers_in(_bounded(prompt)),
    )


def options_of(prompt: str) -> dict[str, str]:
    """Return the options that a prompt offers by letter; none where it offers fewer than two."""
    options = {match[1]: match[2].strip() for match in _OPTION.finditer(_bounded(prompt))}
    return options if len(options) > 1 else {}


def numbers_in(text: str) -> tuple[float, ...]:
    """Return the numbers of a text, in their order."""
    read = [float(digits.replace(",", "")) for digits in _NUMBER.findall(text)]
    return tuple(filter(math.isfinite, read))


def number_in(text: str) -> float | None:
    """Return the first number of a text; None without one."""
    found = _NUMBER.search(text)
    value = math.nan if found is None else float(found[0].replace(",", ""))
    return value if math.isfinite(value) else None


def _bounded(text: str) -> str:
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}\n{text[-half:]}"


def _statements(text: str) -> tuple[Form, tuple[str, ...], int]:
    """Return how the answer is stated, all statements, and where the last one starts."""
    found = list(_JSON_ANSWER.finditer(text))
    if found:
        values = tuple(_unquoted(match[1]) for match in found)
        return _json_form(text), values, found[-1].start()
    for form, pattern in _PATTERNS:
        if found := list(pattern.finditer(text)):
            return form, tuple(match[1] for match in found), found[-1].start()
    if len(text.strip()) <= _SHORT_ANSWER:
        return (Form.SHORT, (text.strip(),), 0) if text.strip() else (Form.NOWHERE, (), 0)
    return Form.NOWHERE, (), len(text)


_PATTERNS = (
    (Form.BOXED, _BOXED),
    (Form.MARKED, _MARKED),
    (Form.SENTENCE, _STATED),
    (Form.MARKED, _EQUALS),
)


def _json_form(text: str) -> Form:
    body = _FENCE.sub("", text)
    start, end = body.find("{"), body.rfind("}")
    try:
        value = orjson.loads(body[start : end + 1])
    except orjson.JSONDecodeError:
        return Form.BROKEN_JSON
    return Form.JSON if isinstance(value, dict) else Form.BROKEN_JSON


def _unquoted(value: str) -> str:
    value = value.strip()
    try:
        read = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value.strip('"')
    return read if isinstance(read, str) else value


def _letter(final: str, options: dict[str, str]) -> str:
    found = _LETTER.match(final)
    if found and found[1].upper() in options:
        return found[1].upper()
    wanted = final.strip(" .*\"'").lower()
    same = [letter for letter, option in options.items() if option.strip(" .").lower() == wanted]
    return same[0] if same else ""
