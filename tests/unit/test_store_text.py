"""COPY's text format, foreign text and database URLs, without a database."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.store.database import libpq_url, redacted
from routoo.store.encoding import copy_field, escaped, put_text_back, storable, without_text

_UNESCAPED = {"\\": "\\", "n": "\n", "t": "\t", "r": "\r"}


def _read(value: str) -> str:
    """Read a field as PostgreSQL does."""
    characters = iter(value)
    return "".join(_UNESCAPED[next(characters)] if c == "\\" else c for c in characters)


@given(st.text(st.sampled_from("\\\n\t\rntrN.ab🎈") | st.characters(codec="utf-8")))
def test_an_escaped_field_reads_back_and_ends_no_line(value: str) -> None:
    assert _read(escaped(value)) == value
    assert not set("\n\t\r") & set(escaped(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, r"\N"),
        (r"\N", r"\\N"),
        (Decimal("0.10"), "0.10"),
        (datetime(2030, 1, 2, tzinfo=UTC), "2030-01-02 00:00:00+00:00"),
    ],
)
def test_values_become_fields(value: object, expected: str) -> None:
    assert copy_field(value) == expected


@given(st.text(st.characters()))
def test_any_text_becomes_storable_and_good_text_stays(text: str) -> None:
    mended = storable(text)

    mended.encode()
    assert "\0" not in mended
    if "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text):
        assert mended == text


def test_no_text_stays_none() -> None:
    assert storable(None) is None


@pytest.mark.parametrize(
    "url", ["postgres://u@h/d", "postgresql://u@h/d", "postgresql+psycopg://u@h/d"]
)
def test_any_spelling_of_the_url_reaches_the_driver(url: str) -> None:
    assert libpq_url(url) == "postgresql://u@h/d"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@h:5/d?password=secret", "postgresql://u@h:5/d"),
        ("postgresql://h/d", "postgresql://h/d"),
        ("postgresql://routoo@/routoo?host=%2Fx", "postgresql://routoo@/routoo"),
    ],
)
def test_a_shown_url_has_no_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown


LONG = "A long answer. " * 20
RESPONSES = [
    {
        "choices": [{"message": {"role": "assistant", "content": LONG, "x": [1]}, "index": 0}],
        "id": 1,
    },
    {"choices": [{"text": LONG, "index": 0}, {"text": LONG, "index": 1}]},
]


@pytest.mark.parametrize("response", RESPONSES)
def test_a_long_answer_is_stored_once_and_read_as_it_came(response: dict[str, Any]) -> None:
    stored = orjson.dumps(without_text(response, LONG))
    assert stored.count(LONG.encode()) == len(response["choices"]) - 1
    assert orjson.dumps(response).count(LONG.encode()) == len(response["choices"])
    read = orjson.loads(stored)
    put_text_back(read, LONG)
    assert orjson.dumps(read) == orjson.dumps(response)


_VALUES = st.recursive(
    st.one_of(st.none(), st.integers(0, 9), st.text(max_size=3), st.just(LONG)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["choices", "message", "content", "text", "x"]), inner),
    ),
    max_leaves=8,
)
_BODIES = st.dictionaries(st.just("choices"), st.lists(_VALUES, max_size=2) | _VALUES)


@given(_BODIES, st.sampled_from([None, "", "short", LONG, LONG + "more"]))
def test_any_response_is_read_as_it_came(response: dict[str, Any], answer: str | None) -> None:
    before = orjson.dumps(response)
    read = orjson.loads(orjson.dumps(without_text(response, answer)))
    put_text_back(read, answer)
    assert orjson.dumps(read) == before == orjson.dumps(response)
