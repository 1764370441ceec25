"""Reads the limits of jobs (quality, cost, latency, deadline, models) from rows and options."""

import math
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

import orjson

from producer.rows.problems import LimitError, ProblemKind, RowProblem
from routoo.domain.batch_options import OnUnavailable
from routoo.domain.job import SLA
from routoo.domain.validators import NO_RULES, Validators
from routoo.errors import InputError

LIMIT_FIELDS = frozenset(
    {
        "min_quality",
        "max_cost_usd",
        "max_latency_s",
        "deadline",
        "allowed_models",
        "denied_models",
        "on_unavailable",
        "validate",
    }
)
"""A row's own limits; each overrides the batch-wide one."""
_SLA_FIELDS = {"validate": "validators"}
"""Fields of an SLA that rows call otherwise."""
_RULES: dict[str, tuple[type, ...]] = {
    "json_schema": (dict, bool),
    "regex": (str,),
    "choices": (list,),
    "not_empty": (bool,),
    "not_truncated": (bool,),
    "repair": (bool,),
}
_RULES_REMEDY = f"Write an object with some of {', '.join(_RULES)}"
_NAMES_SHOWN = 10
_MOST_USD = Decimal(10) ** 9
_MOST_NUMBER = 1e9
_LONGEST_LATENCY_S = 1e9
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNIT_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DEADLINE_REMEDY = (
    "Write an instant with its zone, as 2027-01-31T18:00:00Z, or a time from now, as 2h or 30m"
)


def read_quality(name: str, value: object) -> float:
    """Return a quality in [0, 1].

    Raises:
        LimitError: It is no number or outside the range.
    """
    quality = _number(name, value)
    if not 0 <= quality <= 1:
        raise _out_of_range(f"{name} is not between 0 and 1", value, "Give 0 to 1, as 0.7")
    return quality


def read_number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = _MOST_NUMBER,
) -> float:
    """Return a number that is above `above` and from `least` to `most`.

    Raises:
        LimitError: It is no number or outside the range.
    """
    number = _number(name, value)
    if not (number > above and least <= number <= most):
        bound = f"above {above:g}" if above >= least else f"from {least:g}"
        remedy = f"Give a number {bound} to {most:g}"
        raise _out_of_range(f"{name} is out of range", value, remedy)
    return number


def read_usd(name: str, value: object) -> Decimal:
    """Return an amount of US dollars, exact.

    Raises:
        LimitError: It is no number, negative, or over a billion.
    """
    _number(name, value)
    try:
        amount = Decimal(str(value).strip())
    except InvalidOperation:
        amount = Decimal(-1)  # such as 1_0, which Python's float takes
    if not 0 <= amount <= _MOST_USD:
        raise _out_of_range(f"{name} is no amount of dollars", value, "Give 0 or more, as 0.25")
    return amount


def read_max_latency_s(value: object) -> float:
    """Return a time in seconds.

    Raises:
        LimitError: It is no number, or not above 0.
    """
    latency_s = _number("max_latency_s", value)
    if not 0 < latency_s <= _LONGEST_LATENCY_S:
        raise _out_of_range("max_latency_s is not above 0", value, "Give seconds, as 30")
    return latency_s


def read_deadline(value: object, now: datetime) -> datetime:
    """Return an instant in UTC from an ISO instant with a zone or a duration from now.

    Args:
        value: For example `2027-01-31T18:00:00Z`, `2h`, `1h30m`, or a datetime with a zone.
        now: The present instant, with its zone.

    Raises:
        LimitError: It is neither, has no zone, or is over.
    """
    instant = value if isinstance(value, datetime) else _instant(value, now)
    if instant is None:
        raise _out_of_range("the deadline is unreadable", value, _DEADLINE_REMEDY)
    if instant.tzinfo is None:
        raise _out_of_range("the deadline has no time zone", value, _DEADLINE_REMEDY)
    if instant <= now:
        raise _out_of_range("the deadline is over", value, "Give one in the future")
    return instant.astimezone(UTC)


def read_models(name: str, value: object, known: Collection[str]) -> tuple[str, ...] | None:
    """Return names of candidate models, None where the list says nothing.

    Args:
        name: What the list is called in messages.
        value: A list of texts, or one text with commas, as CSV and options have it.
        known: Names in the pool.

    Raises:
        LimitError: It is no such list, or names a model that is not in the pool.
    """
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        what, remedy = f"{name} is no list of models", 'Write ["a", "b"], or in CSV a,b in quotes'
        raise LimitError(RowProblem(ProblemKind.WRONG_TYPE, what, remedy, value))
    models = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    for model in models:
        if model not in known:
            what = f"{name} has a model that is not in the pool"
            remedy = f"Name some of {', '.join(list(known)[:_NAMES_SHOWN])}"
            raise LimitError(RowProblem(ProblemKind.UNKNOWN_MODEL, what, remedy, model))
    return models or None


def read_validators(value: object, defaults: Validators | None = None) -> Validators | None:
    """Return the rules for an answer, checked; None where there are none.

    Args:
        value: An object of rules, or its JSON text, as CSV has it.
        defaults: Rules of the batch; each that the object names takes the place of one of them.

    Raises:
        LimitError: It is no such object, or a rule can't be applied.
    """
    # Here and not above: JSON Schema takes 0.1 s to import, and few rows have rules.
    from routoo.domain.answer_checks import check_rules

    rules = _rules_object(value)
    try:
        own = Validators.from_json({**(defaults or NO_RULES).as_json(), **rules})
        check_rules(own)
    except InputError as error:
        raise invalid_rule(error) from error
    except orjson.JSONEncodeError as error:
        what = "json_schema is nested deeper than 250 levels"
        raise LimitError(RowProblem(ProblemKind.INVALID_RULE, what, "Flatten it")) from error
    return None if own == NO_RULES else own


def invalid_rule(error: InputError) -> LimitError:
    """Return the problem of a rule that can't be applied, from the error that says so."""
    remedy = error.remedy or _RULES_REMEDY
    return LimitError(RowProblem(ProblemKind.INVALID_RULE, error.what, remedy, error.value))


def _rules_object(value: object) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            value = None
    if not isinstance(value, dict):
        what = "validate is no object of rules"
        raise LimitError(RowProblem(ProblemKind.WRONG_TYPE, what, _RULES_REMEDY, value))
    for name, rule in value.items():
        kinds = _RULES.get(name)
        if kinds is None or not isinstance(rule, kinds):
            what = f"validate has no rule {name!r} of that form"
            raise LimitError(RowProblem(ProblemKind.INVALID_RULE, what, _RULES_REMEDY, rule))
    if not all(isinstance(choice, str) for choice in value.get("choices", ())):
        what = "choices is no list of texts"
        raise LimitError(RowProblem(ProblemKind.WRONG_TYPE, what, 'Write ["a", "b"]', value))
    return value


def read_on_unavailable(value: object) -> str:
    """Return what happens to a job while its model takes no calls.

    Raises:
        LimitError: It is neither wait nor fallback.
    """
    if value not in list(OnUnavailable):
        what, remedy = "on_unavailable is not known", "Give wait or fallback"
        raise LimitError(RowProblem(ProblemKind.WRONG_TYPE, what, remedy, value))
    return str(value)


Reader = Callable[[object], object]


def sla_readers(
    now: datetime, models: Collection[str], rules: Validators | None = None
) -> dict[str, Reader]:
    """Return the function that reads each limit of a job, by the limit's name in a row.

    Args:
        now: The present instant, which deadlines are compared with.
        models: Names of the candidate models that lists may hold.
        rules: Rules of the batch for answers.
    """
    return {
        "min_quality": partial(read_quality, "min_quality"),
        "max_cost_usd": partial(read_usd, "max_cost_usd"),
        "max_latency_s": read_max_latency_s,
        "deadline": partial(read_deadline, now=now),
        "allowed_models": partial(read_models, "allowed_models", known=models),
        "denied_models": partial(read_models, "denied_models", known=models),
        "on_unavailable": read_on_unavailable,
        "validate": partial(read_validators, defaults=rules),
    }


def read_sla(
    row: Mapping[str, Any], defaults: SLA, readers: Mapping[str, Reader]
) -> tuple[SLA, list[RowProblem]]:
    """Return a row's limits (`defaults` where it has none) and the problems of those it has."""
    problems: list[RowProblem] = []
    limits: dict[str, Any] = {}
    for name, read in readers.items():
        field = _SLA_FIELDS.get(name, name)
        limits[field] = getattr(defaults, field)
        if row.get(name) is None:
            continue
        try:
            limits[field] = read(row[name])
        except LimitError as error:
            problems.append(error.problem)
    return SLA(**limits), problems


def _number(name: str, value: object) -> float:
    if isinstance(value, (int, float, Decimal, str)) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            pass
        else:
            if math.isfinite(number):
                return number
    raise LimitError(
        RowProblem(ProblemKind.WRONG_TYPE, f"{name} is not a number", "Give a number", value)
    )


def _instant(value: object, now: datetime) -> datetime | None:
    """Return the instant that a text names, None where it names none."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    parts = _DURATION.findall(text)
    try:
        if parts and "".join(number + unit for number, unit in parts) == text:
            return now + timedelta(seconds=sum(float(n) * _UNIT_S[unit] for n, unit in parts))
        return datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None


def _out_of_range(what: str, value: object, remedy: str) -> LimitError:
    return LimitError(RowProblem(ProblemKind.LIMIT_OUT_OF_RANGE, what, remedy, value))
