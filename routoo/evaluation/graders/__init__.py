"""Grades answers by pure functions, from an answer and its reference to a score with its reason.

| name | right when |
|---|---|
| `choice` | the answer chooses the reference's letter |
| `exact` | the texts are the same |
| `normalized` | they are the same but for case, punctuation, articles and space |
| `contains` | a short answer names the reference and no other candidate |
| `numeric` | the answer's number is the reference's, within a tolerance |
| `regex` | the reference, a regular expression, matches |
| `json` | the parsed values are equal |
| `json_schema` | the parsed value fits the reference, a JSON Schema |
| `code_output` | it states the output of a program that the reference holds; nothing is run |

`judge`, a language model that compares an answer with the reference, is no pure function:
evaluation runs ask it in a batch of its own (`judge.py`).

A new grader is one file in this folder and one line of `GRADERS`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from routoo.errors import InputError
from routoo.evaluation.graders.choice import grade_choice
from routoo.evaluation.graders.grade import Grade
from routoo.evaluation.graders.numeric import grade_numeric
from routoo.evaluation.graders.structured import grade_code_output, grade_json, grade_json_schema
from routoo.evaluation.graders.text import (
    grade_contains,
    grade_exact,
    grade_normalized,
    grade_regex,
)

__all__ = ["GRADERS", "Grade", "default_grader", "grade", "listed_choices"]

_Grader = Callable[[str, str, Mapping[str, Any]], Grade]


def _without_options(grader: Callable[[str, str], Grade]) -> _Grader:
    return lambda answer, reference, _options: grader(answer, reference)


GRADERS: dict[str, _Grader] = {
    "choice": grade_choice,
    "exact": _without_options(grade_exact),
    "normalized": _without_options(grade_normalized),
    "contains": _without_options(grade_contains),
    "numeric": grade_numeric,
    "regex": grade_regex,
    "json": _without_options(grade_json),
    "json_schema": _without_options(grade_json_schema),
    "code_output": _without_options(grade_code_output),
}

_FEW_WORDS = 6
"""A longer reference is compared as a whole, not looked for in the answer."""
_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-P])[.):][ \t]+(\S.*)$", re.MULTILINE)


def grade(
    name: str, answer: str, reference: str, options: Mapping[str, Any] | None = None
) -> Grade:
    """Grade an answer.

    Args:
        name: A key of `GRADERS`.
        answer: What the model wrote.
        reference: What is right, in the form the grader wants.
        options: The grader's own options; each grader documents them.

    Returns:
        The score in [0, 1], or None for an ambiguous answer, and how it was reached.

    Raises:
        InputError: There is no such grader, or it can't use the reference.
    """
    if name not in GRADERS:
        raise InputError(
            "no such grader", value=name, remedy=f"Choose one of {', '.join(sorted(GRADERS))}"
        )
    return GRADERS[name](answer, reference, options or {})


def listed_choices(prompt: str) -> dict[str, str]:
    """Return the lettered options that a prompt lists, a line each, by letter."""
    return dict(_OPTION_LINE.findall(prompt))


def default_grader(prompt: str, reference: str) -> str:
    """Return the grader for an item that names none.

    `choice` for a letter where the prompt lists lettered options, `numeric` for a number,
    `contains` for a few words, else `normalized`.
    """
    if re.fullmatch(r"\s*\(?[A-P]\)?\.?\s*", reference) and len(listed_choices(prompt)) > 1:
        return "choice"
    if re.fullmatch(r"\s*-?\d[\d,]*(?:\.\d+)?\s*", reference):
        return "numeric"
    words = reference.split("|", maxsplit=1)[0].split()
    return "contains" if len(words) <= _FEW_WORDS else "normalized"
