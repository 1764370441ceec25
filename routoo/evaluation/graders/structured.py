"""Grades answers that hold a value: JSON, or what a program prints. Nothing is ever run."""

import ast
import itertools
import json
import re
from typing import Any

from routoo.domain.json_schema import check_schema, schema_error
from routoo.errors import InputError
from routoo.evaluation.graders.grade import Grade, readable, right_or_wrong, ungraded

_ASSERTED = re.compile(r"^\s*assert\b[^\n]{0,2000}?==\s*([^\n]+)$", re.MULTILINE)
_BLOCK = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_ANNOUNCED = re.compile(
    r"\b(?:output|result|returns?|prints?)\b[^:\n`]{0,40}:\**[ \t]*\n*", re.IGNORECASE
)
_LONGEST_LITERAL = 10_000
_SHOWN = 80


def grade_code_output(answer: str, reference: str) -> Grade:
    """Grade by whether the answer states the reference as the output of a program.

    The stated output is the first of these that is found: what follows the last `assert ... ==`;
    what follows the last "output:" or "result:", or the code block that stands there; the only
    code block; the only piece of inline code; the whole answer. Several different blocks, none of
    them announced, are ambiguous. Texts are compared without space at line ends; where both are
    Python literals, their values and types are.
    """
    text = readable(answer)
    stated = list(dict.fromkeys(_stated(text)))
    if not stated:
        return right_or_wrong(right=False, detail="the answer is empty")
    if len({_plain(one) for one in stated}) > 1:
        return ungraded(f"several outputs: {', '.join(_cut(one) for one in stated[:3])}")
    right = _same(stated[0], reference)
    return right_or_wrong(right=right, detail=f"states {_cut(stated[0])}")


def _stated(text: str) -> list[str]:
    asserted = _ASSERTED.findall(text)
    if asserted:
        return [asserted[-1]]
    announced = list(_ANNOUNCED.finditer(text))
    if announced:
        rest = text[announced[-1].end() :]
        block = _BLOCK.match(rest)
        inline = _INLINE.match(rest)
        found = block or inline
        first_line = rest.split("\n", maxsplit=1)[0]
        return [found[1] if found else first_line] if rest.strip() else []
    for pattern in (_BLOCK, _INLINE):
        found_all = pattern.findall(text)
        if found_all:
            return list(found_all)
    return [text] if text else []


def _same(stated: str, reference: str) -> bool:
    if _plain(stated) == _plain(reference):
        return True
    values = [_literal(text) for text in (stated, reference)]
    return None not in values and values[0] == values[1]


def _literal(text: str) -> str | None:
    """Return a literal in one spelling, None where the text is none."""
    if len(text) > _LONGEST_LITERAL:
        return None
    try:
        return repr(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def _cut(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_OPENINGS_TRIED = 100
_LONGEST_DETAIL = 300
_DECODER = json.JSONDecoder()


def grade_json(answer: str, reference: str) -> Grade:
    """Grade by equality of the parsed values; order of keys, space and code fences don't matter.

    The answer's first JSON object or list counts, or the whole answer where it is another value.

    Raises:
        InputError: The reference is not JSON.
    """
    try:
        wanted = json.loads(reference)
    except ValueError as error:
        raise InputError(
            f"the reference is not JSON: {error}",
            value=reference,
            remedy="Correct it, or choose another grader",
        ) from error
    found, said = _first_value(readable(answer))
    if not found:
        return right_or_wrong(right=False, detail="no JSON in the answer")
    right = _equal(said, wanted)
    return right_or_wrong(right=right, detail="equal JSON" if right else "different JSON")


def grade_json_schema(answer: str, reference: str) -> Grade:
    """Grade by whether the answer's JSON fits a JSON Schema (draft 2020-12 where it names none).

    Nothing is fetched: a schema may refer to its own parts only.

    Raises:
        InputError: The reference is no JSON Schema.
    """
    check_schema(reference)
    found, said = _first_value(readable(answer))
    if not found:
        return right_or_wrong(right=False, detail="no JSON in the answer")
    error = schema_error(reference, said)
    if error is None:
        return right_or_wrong(right=True, detail="fits the schema")
    return right_or_wrong(right=False, detail=error[:_LONGEST_DETAIL])


def _first_value(text: str) -> tuple[bool, Any]:
    fence = _FENCE.search(text)
    text = (fence[1] if fence else text).strip()
    openings = (match.start() for match in re.finditer(r"[{\[]", text))
    for start in (0, *itertools.islice(openings, _OPENINGS_TRIED)):
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if start or isinstance(value, dict | list) or end == len(text):
            return True, value
    return False, None


def _equal(left: object, right: object) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right  # Python says True == 1, JSON does not
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)
