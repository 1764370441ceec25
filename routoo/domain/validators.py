"""Rules that the owner of a job sets for its answer; `routoo.domain.answer_checks` applies them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import orjson


@dataclass(frozen=True, slots=True)
class Validators:
    """The rules for the answer of one job; with nothing set, every answer keeps them."""

    json_schema: str | None = None
    """JSON Schema as JSON text (draft 2020-12 where it names none): the whole answer must fit."""
    regex: str | None = None
    """Pattern that must match somewhere in the answer; `^` and `$` bind it to the ends."""
    choices: tuple[str, ...] | None = None
    """The answer, without the space around it, is one of these."""
    not_empty: bool = False
    """The answer has a character that is no space."""
    not_truncated: bool = False
    """The answer did not end because it reached its token limit."""
    repair: bool = False
    """An answer that breaks a rule is asked for once more before another model is asked."""

    @property
    def has_rules(self) -> bool:
        """Whether an answer can break any of them."""
        return self not in {NO_RULES, _REPAIR_ALONE}

    def as_json(self) -> dict[str, Any]:
        """Return the rules that are set, as the value of a JSON column or of a row's `validate`."""
        values: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        if self.json_schema is not None:
            values["json_schema"] = orjson.loads(self.json_schema)
        return values

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the rules that `as_json` wrote."""
        known = dict(value)
        if known.get("json_schema") is not None:
            known["json_schema"] = schema_text(known["json_schema"])
        if known.get("choices") is not None:
            known["choices"] = tuple(known["choices"])
        return cls(**known)


NO_RULES, _REPAIR_ALONE = Validators(), Validators(repair=True)


def schema_text(schema: object) -> str:
    """Return a JSON Schema as text; the same schema always gives the same text."""
    return orjson.dumps(schema, option=orjson.OPT_SORT_KEYS).decode()


def implied_schema(body: Mapping[str, Any]) -> str | None:
    """Return the JSON Schema that a request asks the model to keep, None where it names none."""
    wanted = body.get("response_format")
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return None
    named = wanted.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    return schema_text(schema) if isinstance(schema, Mapping) else None


def validators_of(body: Mapping[str, Any], own: Validators | None) -> Validators:
    """Return the rules for a job's answer: its own, and the schema of its `response_format`.

    Args:
        body: The request.
        own: What the row or the batch asks for; its schema counts before that of the request.
    """
    rules = own or NO_RULES
    if rules.json_schema is not None or "response_format" not in body:
        return rules
    schema = implied_schema(body)
    return rules if schema is None else replace(rules, json_schema=schema)
