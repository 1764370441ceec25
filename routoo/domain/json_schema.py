"""Applies JSON Schemas and regular expressions within a limit of time; nothing is ever fetched.

Some patterns take for ever on some texts, and some schemas on some values. A check that takes too
long ends with an error instead, whichever keyword it is at.
"""

import json
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Protocol

import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, UnknownType, ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from routoo.errors import InputError

CHECK_TIMEOUT_S = 1.0
"""The longest time that the check of one value takes, in seconds."""
_COMPILED = 256
"""Schemas and patterns that are kept ready; the rows of a batch mostly share one."""
_LONGEST_MESSAGE = 300
_Keyword = Callable[[Validator, Any, Any, Any], Iterator[ValidationError] | None]

_INAPPLICABLE = (AttributeError, LookupError, TypeError, ValueError, SchemaError, UnknownType)
_PROBLEMS: Mapping[type[Exception], str] = {
    TimeoutError: f"its check by the JSON Schema takes longer than {CHECK_TIMEOUT_S:g} s",
    RecursionError: "it is nested too deep for the JSON Schema",
    ArithmeticError: "it holds a number that is out of range",  # of a multipleOf: 1e400
} | dict.fromkeys((*_INAPPLICABLE, regex.error), "the JSON Schema can't be applied to it")
"""The message of a check that could not be completed, by its error."""

_until_s: ContextVar[float] = ContextVar("_until_s")
"""When the check that runs must have ended, by the monotonic clock."""


class TimedPattern(Protocol):
    """A regular expression whose search ends after a limit of time, in seconds."""

    def search(self, text: str, /, *, timeout: float) -> object:
        """Return the match; None without one."""
        ...


@lru_cache(maxsize=_COMPILED)
def check_schema(text: str) -> None:
    """Check that a JSON Schema, given as JSON text, can be applied.

    Raises:
        InputError: It is none, refers to something that it doesn't hold, or can't be applied
            within a limit of time.
    """
    try:
        schema = _validator(text).schema
        _check_references(schema)
        _check_patterns(schema)
    except (ValueError, SchemaError, RecursionError, regex.error, Unresolvable) as error:
        raise InputError(
            "the JSON Schema can't be used",
            value=str(error).partition("\n")[0][:_LONGEST_MESSAGE],
            remedy="Correct it; what it refers to must stand in it, under $defs",
        ) from error


def schema_error(text: str, value: object) -> str | None:
    """Return how a value breaks a JSON Schema, as a phrase; None where it fits.

    It never raises: not for odd values, nor for schemas that can't be applied.

    Args:
        text: The schema as JSON text; references to what it doesn't hold are ignored.
        value: What JSON can hold.
    """
    token = _until_s.set(time.monotonic() + CHECK_TIMEOUT_S)
    try:
        error = best_match(_validator(text).iter_errors(value))
    except Unresolvable:
        return None  # refused by `check_schema`, so nothing that a job can hold
    except tuple(_PROBLEMS) as problem:
        return next(phrase for kind, phrase in _PROBLEMS.items() if isinstance(problem, kind))
    finally:
        _until_s.reset(token)
    if error is None:
        return None
    where = error.json_path.removeprefix("$") or "the whole"
    return f"{where}: {error.message}"


@lru_cache(maxsize=_COMPILED)
def compiled(pattern: str) -> TimedPattern:
    """Return a regular expression ready for use.

    Raises:
        regex.error: It is none.
    """
    found: TimedPattern = regex.compile(pattern)
    return found


@lru_cache(maxsize=_COMPILED)
def _validator(text: str) -> Validator:
    schema = json.loads(text)
    kind = Draft202012Validator
    if isinstance(schema, dict):
        kind = validator_for(schema, default=Draft202012Validator)
    kind.check_schema(schema)
    _refuse_unlimited(schema)
    return _within_time(kind)(schema, registry=Registry())


def _refuse_unlimited(schema: object) -> None:
    """Refuse what the library would apply by its own means, without a limit of time.

    Raises:
        SchemaError: The schema has such a part.
    """
    if _has(schema, "patternProperties") and _has(schema, "unevaluatedProperties"):
        raise SchemaError("unevaluatedProperties beside patternProperties is not supported")
    parts = schema.values() if isinstance(schema, dict) else ()
    if any(isinstance(draft, str) for part in parts for draft in _values_of(part, "$schema")):
        raise SchemaError("$schema is only supported at the top")


@lru_cache
def _within_time(kind: type[Validator]) -> type[Validator]:
    """Return a draft's validator whose every keyword looks at the clock."""
    keywords = dict(kind.VALIDATORS)
    keywords |= {name: own for name, own in _OWN_KEYWORDS.items() if name in keywords}
    timed: type[Validator] = extend(
        kind, {name: _timed(keyword) for name, keyword in keywords.items()}
    )
    return timed


def _timed(keyword: _Keyword) -> _Keyword:
    def apply(
        validator: Validator, wanted: object, instance: object, schema: object
    ) -> Iterator[ValidationError] | None:
        _left_s()
        return keyword(validator, wanted, instance, schema)

    return apply


def _left_s() -> float:
    """Return the time that is left for the check, in seconds.

    Raises:
        TimeoutError: None is.
    """
    left_s = _until_s.get() - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _matches(pattern: str, text: str) -> bool:
    return compiled(pattern).search(text, timeout=_left_s()) is not None


def _pattern(
    _validator: Validator, pattern: str, instance: object, _schema: object
) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Validator, wanted: Mapping[str, Any], instance: object, _schema: object
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    for pattern, subschema in wanted.items():
        for name, value in instance.items():
            if _matches(pattern, name):
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Validator, wanted: object, instance: object, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    more = [
        name
        for name in instance
        if name not in known and not any(_matches(pattern, name) for pattern in patterns)
    ]
    if isinstance(wanted, dict):
        for name in more:
            yield from validator.descend(instance[name], wanted, path=name)
    elif not wanted and more:
        names = ", ".join(map(repr, more))
        yield ValidationError(f"Additional properties are not allowed: {names}")


def _unique_items(
    _validator: Validator, wanted: object, instance: object, _schema: object
) -> Iterator[ValidationError]:
    """Apply the keyword `uniqueItems` in linear time."""
    if not wanted or not isinstance(instance, list):
        return
    if len({_frozen(item) for item in instance}) < len(instance):
        yield ValidationError("it has items that are not unique")


def _frozen(value: object) -> Hashable:
    """Return a value that is equal for two values which JSON has equal: 1 is 1.0, not true."""
    if isinstance(value, dict):
        return ("object", frozenset((name, _frozen(one)) for name, one in value.items()))
    if isinstance(value, list):
        return ("array", *map(_frozen, value))
    return ("boolean", value) if isinstance(value, bool) else value


_OWN_KEYWORDS: dict[str, _Keyword] = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}


def _check_references(schema: object) -> None:
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = Registry().with_resource("", resource).resolver()
    for reference in _values_of(schema, "$ref"):
        if isinstance(reference, str):
            resolver.lookup(reference)


def _check_patterns(schema: object) -> None:
    for pattern in _values_of(schema, "pattern"):
        if isinstance(pattern, str):
            compiled(pattern)
    for patterns in _values_of(schema, "patternProperties"):
        if isinstance(patterns, dict):
            for pattern in patterns:
                compiled(pattern)


def _has(schema: object, key: str) -> bool:
    return any(True for _ in _values_of(schema, key))


def _values_of(schema: object, key: str) -> Iterator[object]:
    """Yield what stands under a key anywhere in a schema."""
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if key in item:
                yield item[key]
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
