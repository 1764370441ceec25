"""Answers that strict JSON refuses are read all the same, since they were paid for."""

import gc
import json
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.client.http import decode_json
from routoo.errors import InvalidResponseError

URL = "http://endpoint.test/v1"


def decoded(raw: bytes) -> object:
    return decode_json(raw, where=URL, http_status=200)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b'{"a": -Infinity, "b": NaN, "c": Infinity}', {"a": None, "b": None, "c": None}),
        (b'{"a": 1e999}', {"a": None}),
        (rb'{"a": "x\ud83dy"}', {"a": "x\ufffdy"}),
        (rb'{"a": "\udc00\ud83d\ude00"}', {"a": "\ufffd\U0001f600"}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('{"a": "\u00e9"}'.encode("utf-16"), {"a": "\u00e9"}),
        (b'{"a": "caf\xe9 \xff"}', {"a": "caf\ufffd \ufffd"}),
        (b'{"a": "tab\there\nline"}', {"a": "tab\there\nline"}),
        (
            b'{"a": NaN, "b": 123456789012345678901234567890}',
            {"a": None, "b": 1.2345678901234568e29},
        ),
        (b'\n\n  {"a": 1}', {"a": 1}),
    ],
)
def test_a_defect_is_replaced_and_the_rest_is_read(raw: bytes, value: object) -> None:
    assert decoded(raw) == value


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"<html>",
        b"[NaN",
        b"[" * 300 + b"]" * 300,
        b"[" * 2_000 + b"]" * 2_000,
        b"[NaN," + b"[" * 100_000,
        b'{"a": ' + b"9" * 5_000 + b"0" * 5_000 + b", NaN}",
    ],
)
def test_what_is_no_json_or_too_deep_is_an_invalid_response(raw: bytes) -> None:
    with pytest.raises(InvalidResponseError) as caught:
        decoded(raw)
    assert len(str(caught.value)) < 500


def test_an_error_does_not_keep_the_answer_in_memory() -> None:
    raw = b"[" + b"x" * 1_000_000
    try:
        decoded(raw)
    except InvalidResponseError as error:
        kept = error.detached()
    gc.collect()
    assert kept.__traceback__ is None
    assert kept.__cause__ is kept.__context__ is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_JSON)
def test_whatever_json_says_can_be_written_again(value: Any) -> None:
    raw = json.dumps(value).encode()
    assert isinstance(orjson.dumps(decoded(raw)), bytes)


@given(st.binary())
def test_any_bytes_are_json_or_an_invalid_response(raw: bytes) -> None:
    with suppress(InvalidResponseError):
        orjson.dumps(decoded(raw))
