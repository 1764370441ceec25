"""Rules for answers: what keeps them, what breaks them, and which rules can't be used."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from routoo.domain.answer_checks import Rule, check_rules, find_fault
from routoo.domain.completion import FinishReason
from routoo.domain.validators import NO_RULES, Validators, schema_text, validators_of
from routoo.errors import InputError

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[a-z]+$"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
SCHEMA = Validators(json_schema=schema_text(PERSON))


def broken(rules: Validators, answer: str, reason: FinishReason | None = None) -> Rule | None:
    fault = find_fault(rules, answer, reason)
    return None if fault is None else fault.rule


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ('{"name": "ada", "age": 36}', None),
        (' {"age": 36, "name": "ada", "more": []}\n', None),
        ('{"name": "ada"}', Rule.JSON_SCHEMA),
        ('{"name": "Ada", "age": 36}', Rule.JSON_SCHEMA),
        ('{"name": "ada", "age": NaN}', Rule.JSON_SCHEMA),
        ('```json\n{"name": "ada", "age": 36}\n```', Rule.JSON_SCHEMA),
        ('{"name": "ada", "age"', Rule.JSON_SCHEMA),
        ("", Rule.JSON_SCHEMA),
        ("[" * 100_000, Rule.JSON_SCHEMA),
        ("9" * 10_000, Rule.JSON_SCHEMA),
    ],
)
def test_the_whole_answer_is_json_that_fits_the_schema(answer: str, rule: Rule | None) -> None:
    assert broken(SCHEMA, answer) is rule


@pytest.mark.parametrize("answer", ["1e400", "-1e400", "1" + "0" * 400])
def test_a_number_out_of_range_is_no_multiple(answer: str) -> None:
    assert broken(Validators(json_schema='{"multipleOf": 0.01}'), answer) is Rule.JSON_SCHEMA


@pytest.mark.parametrize(
    ("draft", "rules"),
    [
        ("draft-04", {"patternProperties": {"(": {}}}),
        ("draft-04", {"$ref": 5}),
        ("draft-03", {"type": "no type"}),
    ],
)
def test_no_answer_keeps_an_old_schema_that_can_not_be_applied(
    draft: str, rules: dict[str, Any]
) -> None:
    schema = schema_text({"$schema": f"http://json-schema.org/{draft}/schema#", **rules})
    assert broken(Validators(json_schema=schema), '{"a": 1}') is Rule.JSON_SCHEMA


def test_a_pattern_matches_anywhere_and_its_own_anchors_bind_it() -> None:
    assert broken(Validators(regex=r"\d{4}"), "in 1984.") is None
    assert broken(Validators(regex=r"^\d{4}$"), "in 1984.") is Rule.REGEX


def test_a_pattern_that_takes_for_ever_counts_as_not_matched() -> None:
    endless = Validators(regex=r"^(\w|\w\w)+\s\1{500}$")
    assert broken(endless, "a" * 5_000 + "!") is Rule.REGEX


ENDLESS = r"^(\w|\w\w)+\s\1{500}$"


@pytest.mark.parametrize(
    "schema",
    [
        {"patternProperties": {ENDLESS: False}},
        {"patternProperties": {ENDLESS: {}}, "additionalProperties": False},
        {"patternProperties": {ENDLESS: {}}, "additionalProperties": {"type": "object"}},
        {"propertyNames": {"not": {"pattern": ENDLESS}}},
        {"$defs": {"a": {"patternProperties": {ENDLESS: {}}}}, "anyOf": [{"$ref": "#/$defs/a"}]},
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "patternProperties": {ENDLESS: {}},
        },
    ],
)
def test_no_pattern_of_a_schema_takes_for_ever_and_its_answer_is_not_taken(
    schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routoo.domain.json_schema.CHECK_TIMEOUT_S", 0.05)
    rules = Validators(json_schema=schema_text(schema))
    check_rules(rules)
    fault = find_fault(rules, orjson.dumps({"a" * 5_000 + "!": 1}).decode())
    assert fault is not None
    assert "takes longer" in fault.message


def test_all_patterns_of_a_schema_share_one_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_s = iter(range(1_000))
    monkeypatch.setattr("routoo.domain.json_schema.time.monotonic", lambda: next(clock_s) * 0.1)
    rules = Validators(json_schema=schema_text({"additionalProperties": {"pattern": "a"}}))
    fault = find_fault(rules, orjson.dumps(dict.fromkeys("bcdefghijklmnop", "a")).decode())
    assert fault is not None
    assert "takes longer than 1 s" in fault.message


def test_a_schema_that_branches_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("routoo.domain.json_schema.CHECK_TIMEOUT_S", 0.05)
    branch = {"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}, "minItems": 9}]}
    rules = Validators(json_schema=schema_text({"type": "array", **branch, "maxItems": 1}))
    assert broken(rules, "[" * 60 + "1" + "]" * 60) is Rule.JSON_SCHEMA


@pytest.mark.parametrize(
    ("schema", "answer", "fits"),
    [
        ({"patternProperties": {"^a": {"type": "integer"}}}, {"ab": 1, "b": "x"}, True),
        ({"patternProperties": {"^a": {"type": "integer"}}}, {"ab": "x"}, False),
        ({"patternProperties": {"^a": {}}, "additionalProperties": False}, {"a1": 1}, True),
        ({"patternProperties": {"^a": {}}, "additionalProperties": False}, {"b": 1}, False),
        ({"properties": {"b": {}}, "additionalProperties": False}, {"b": 1}, True),
        ({"additionalProperties": {"type": "string"}}, {"b": "x"}, True),
        ({"additionalProperties": {"type": "string"}}, {"b": 1}, False),
        ({"uniqueItems": True}, [1, True, "1", [1], [True], {"a": 1}, {"a": True}, None], True),
        ({"uniqueItems": True}, [{"a": [1, 2]}, 5, {"a": [1.0, 2]}], False),
        ({"uniqueItems": False}, [1, 1], True),
        ({"unevaluatedProperties": False, "properties": {"a": {}}}, {"a": 1}, True),
        ({"unevaluatedProperties": False, "properties": {"a": {}}}, {"b": 1}, False),
    ],
)
def test_keywords_that_are_our_own_keep_their_meaning(
    schema: dict[str, Any],
    answer: object,
    fits: bool,
) -> None:
    rules = Validators(json_schema=schema_text(schema))
    check_rules(rules)
    assert (broken(rules, orjson.dumps(answer).decode()) is None) == fits
    assert Draft202012Validator(schema).is_valid(answer) == fits


def test_many_items_that_differ_are_told_from_each_other_at_once() -> None:
    rules = Validators(json_schema='{"uniqueItems": true}')
    answer = orjson.dumps([{"a": number} for number in range(20_000)]).decode()
    assert broken(rules, answer) is None


def test_choices_are_compared_without_the_space_around_the_answer() -> None:
    rules = Validators(choices=("yes", "no"))
    assert [broken(rules, said) for said in ("yes", " no\n", "Yes", "yes.")] == [
        None,
        None,
        Rule.CHOICES,
        Rule.CHOICES,
    ]


def test_empty_and_truncated_answers() -> None:
    assert broken(Validators(not_empty=True), " \n\t") is Rule.NOT_EMPTY
    cut = Validators(not_truncated=True)
    assert broken(cut, "half of", FinishReason.LENGTH) is Rule.NOT_TRUNCATED
    assert broken(cut, "whole", FinishReason.STOP) is None
    assert broken(NO_RULES, "", FinishReason.LENGTH) is None


def test_an_answer_that_calls_tools_need_only_be_whole() -> None:
    rules = Validators(not_empty=True, choices=("a",), json_schema=schema_text(PERSON))
    assert broken(rules, "", FinishReason.TOOL_CALLS) is None


@pytest.mark.parametrize(
    "rules",
    [
        Validators(json_schema='{"type": "strin"}'),
        Validators(json_schema="[]"),
        Validators(json_schema='{"$ref": "https://example.org/person.json"}'),
        Validators(json_schema='{"$ref": "#/$defs/nothing"}'),
        Validators(json_schema='{"pattern": "["}'),
        Validators(json_schema='{"patternProperties": {"[": {}}}'),
        Validators(json_schema='{"patternProperties": {"a": {}}, "unevaluatedProperties": false}'),
        Validators(json_schema='{"items": {"$schema": "http://json-schema.org/draft-07/schema#"}}'),
        Validators(regex="("),
        Validators(choices=()),
    ],
)
def test_rules_that_cannot_be_applied_are_refused(rules: Validators) -> None:
    with pytest.raises(InputError):
        check_rules(rules)


def test_references_within_the_schema_are_followed() -> None:
    rules = Validators(json_schema='{"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n"}')
    check_rules(rules)
    assert broken(rules, "3") is None
    assert broken(rules, "3.5") is Rule.JSON_SCHEMA


def test_the_schema_of_a_response_format_is_a_rule_without_being_asked_for() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON}}
    body: dict[str, Any] = {"messages": [], "response_format": wanted}
    assert validators_of(body, None) == SCHEMA
    assert validators_of(body, Validators(not_empty=True)).json_schema == SCHEMA.json_schema
    own = Validators(json_schema="{}")
    assert validators_of(body, own) == own
    assert validators_of({"response_format": {"type": "json_object"}}, None) == NO_RULES
    assert validators_of({"response_format": "json_schema"}, None) == NO_RULES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5
)


@given(
    st.builds(
        Validators,
        json_schema=st.none() | st.just(SCHEMA.json_schema),
        regex=st.none() | st.just("a+"),
        choices=st.none() | st.lists(st.text(), min_size=1).map(tuple),
        not_empty=st.booleans(),
        repair=st.booleans(),
    )
)
def test_rules_survive_the_database(rules: Validators) -> None:
    try:
        stored = orjson.loads(orjson.dumps(rules.as_json()))
    except TypeError:
        return  # a lone surrogate: such rows are refused
    assert Validators.from_json(stored) == rules


@given(st.text() | json_values.map(lambda value: orjson.dumps(str(value)).decode()))
def test_no_answer_makes_a_check_fail(answer: str) -> None:
    everything = Validators(SCHEMA.json_schema, "a", ("b",), not_empty=True, not_truncated=True)
    find_fault(everything, answer)
