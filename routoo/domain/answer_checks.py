"""Applies the rules for answers: JSON Schema, pattern, allowed choices, not empty, not cut off.

They need no trained judge. An answer that breaks a rule is never taken for a good one.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NoReturn

import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, UnknownType, ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from routoo.domain.completion import FinishReason
from routoo.domain.validators import Validators
from routoo.errors import InputError

_MATCH_TIMEOUT_S = 1.0
"""A pattern that takes longer on one answer counts as not matched: some patterns take for ever."""
_LONGEST_MESSAGE = 300
_COMPILED = 256
"""Schemas and patterns that are kept ready; the rows of a batch mostly share one."""


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
        _pattern(rules.regex)
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


def _schema_fault(schema: str, said: str) -> Fault | None:
    try:
        value = json.loads(said, parse_constant=_refuse_constant)
        error = best_match(_validator(schema).iter_errors(value))
    except (ValueError, RecursionError) as unreadable:
        return Fault(Rule.JSON_SCHEMA, _cut(f"it is not JSON: {unreadable}"))
    except ArithmeticError:  # of a multipleOf, with a number such as 1e400
        return Fault(Rule.JSON_SCHEMA, "it holds a number that is out of range")
    except Unresolvable:
        return None  # refused by `check_schema`, so nothing that a job can hold
    except (AttributeError, LookupError, TypeError, UnknownType, re.error):
        return Fault(Rule.JSON_SCHEMA, "the JSON Schema can't be applied to it")
    if error is None:
        return None
    where = error.json_path.removeprefix("$") or "the whole"
    return Fault(Rule.JSON_SCHEMA, _cut(f"{where}: {error.message}"))


def _cut(message: str) -> str:
    return message[:_LONGEST_MESSAGE]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


@lru_cache(maxsize=_COMPILED)
def check_schema(text: str) -> None:
    """Check that a JSON Schema, given as text, can be applied.

    Raises:
        InputError: It is none, or refers to something that it doesn't hold.
    """
    try:
        _validator(text)
        _check_references(json.loads(text))
    except (SchemaError, RecursionError, regex.error, Unresolvable) as error:
        raise InputError(
            "the JSON Schema can't be used",
            value=_cut(str(error).splitlines()[0]),
            remedy="Correct it; what it refers to must stand in it, under $defs",
        ) from error


@lru_cache(maxsize=_COMPILED)
def _validator(text: str) -> Validator:
    schema = json.loads(text)
    kind = Draft202012Validator
    if isinstance(schema, dict):
        kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    # An empty registry: nothing is ever fetched.
    return extend(kind, {"pattern": _check_pattern})(schema, registry=Registry())


def _check_pattern(
    _validator: Validator, pattern: str, instance: object, _schema: object
) -> Iterator[ValidationError]:
    """Apply the keyword `pattern` within a limit of time."""
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _check_references(schema: object) -> None:
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = Registry().with_resource("", resource).resolver()
    for reference in _values_of(schema, "$ref"):
        resolver.lookup(reference)
    for pattern in _values_of(schema, "pattern"):
        regex.compile(pattern)


def _values_of(schema: object, key: str) -> Iterator[str]:
    """Yield every text that stands under a key anywhere in a schema."""
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get(key), str):
                yield item[key]
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


@lru_cache(maxsize=_COMPILED)
def _pattern(text: str) -> Any:  # noqa: ANN401 - regex has no type for it
    try:
        return regex.compile(text)
    except regex.error as error:
        raise InputError(
            "the regular expression can't be used",
            value=_cut(f"{text}: {error}"),
            remedy="Correct it",
        ) from error


def _matches(pattern: str, text: str) -> bool:
    try:
        return _pattern(pattern).search(text, timeout=_MATCH_TIMEOUT_S) is not None
    except TimeoutError:
        return False
