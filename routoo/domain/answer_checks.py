"""Applies the rules for answers: JSON Schema, pattern, allowed choices, not empty, not cut off.

They need no trained judge. An answer that breaks a rule is never taken for a good one.
"""

import asyncio
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

import regex

from routoo.domain.completion import FinishReason
from routoo.domain.json_schema import CHECK_TIMEOUT_S, check_schema, compiled, schema_error
from routoo.domain.validators import Validators
from routoo.errors import InputError

_LONGEST_MESSAGE = 300


class Rule(StrEnum):
    """What an answer can break."""

    NOT_EMPTY = "not_empty"
    NOT_TRUNCATED = "not_truncated"
    CHOICES = "choices"
    REGEX = "regex"
    JSON_SCHEMA = "json_schema"


@dataclass(frozen=True, slots=True)
class Fault:
    """Which rule an answer breaks, and how."""

    rule: Rule
    message: str
    """A phrase that begins with a small letter and has no full stop."""


def check_rules(rules: Validators) -> None:
    """Check that the rules can be applied.

    Raises:
        InputError: A schema or a pattern can't be used, or no choice is allowed.
    """
    if rules.json_schema is not None:
        check_schema(rules.json_schema)
    if rules.regex is not None:
        _check_pattern(rules.regex)
    if rules.choices is not None and not any(rules.choices):
        raise InputError("choices is an empty list", remedy="Name at least one choice")


def find_fault(
    rules: Validators, answer: str, finish_reason: FinishReason | None = None
) -> Fault | None:
    """Return the first rule that an answer breaks, None where it keeps them all.

    An answer that calls tools instead of saying something is only checked for being whole.

    Args:
        rules: The rules, checked before.
        answer: Its text.
        finish_reason: Why it ended, as far as the endpoint told.
    """
    if rules.not_truncated and finish_reason is FinishReason.LENGTH:
        return Fault(Rule.NOT_TRUNCATED, "it was cut off at its token limit")
    if finish_reason is FinishReason.TOOL_CALLS:
        return None
    said = answer.strip()
    if rules.not_empty and not said:
        return Fault(Rule.NOT_EMPTY, "it is empty")
    if rules.choices is not None and said not in rules.choices:
        return Fault(Rule.CHOICES, f"it is none of the {len(rules.choices)} choices")
    if rules.regex is not None and not _matches(rules.regex, answer):
        return Fault(Rule.REGEX, "it does not match the regular expression")
    return None if rules.json_schema is None else _schema_fault(rules.json_schema, said)


async def find_fault_aside(
    rules: Validators, answer: str, finish_reason: FinishReason | None = None
) -> Fault | None:
    """Return what `find_fault` does, without keeping the event loop from its other work.

    Patterns and schemas are applied in a thread: some take as long as `CHECK_TIMEOUT_S`.
    """
    if rules.regex is None and rules.json_schema is None:
        return find_fault(rules, answer, finish_reason)
    return await asyncio.to_thread(find_fault, rules, answer, finish_reason)


def _schema_fault(schema: str, said: str) -> Fault | None:
    try:
        value = json.loads(said, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as unreadable:
        return Fault(Rule.JSON_SCHEMA, _cut(f"it is not JSON: {unreadable}"))
    error = schema_error(schema, value)
    return None if error is None else Fault(Rule.JSON_SCHEMA, _cut(error))


def _cut(message: str) -> str:
    return message[:_LONGEST_MESSAGE]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _check_pattern(text: str) -> None:
    try:
        compiled(text)
    except regex.error as error:
        raise InputError(
            "the regular expression can't be used",
            value=_cut(f"{text}: {error}"),
            remedy="Correct it",
        ) from error


def _matches(pattern: str, text: str) -> bool:
    """Return whether a pattern matches; one that takes too long on an answer does not."""
    try:
        return compiled(pattern).search(text, timeout=CHECK_TIMEOUT_S) is not None
    except TimeoutError:
        return False
