"""Encodes values for PostgreSQL: fields of COPY, rows as JSON, texts it can hold."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, overload

import numpy as np
import orjson
from jaxtyping import Shaped

from routoo.domain.prompt import unicode_text
from routoo.errors import ValueRefusedError

_NULL = r"\N"


def escaped(value: str) -> str:
    r"""Return a field of COPY with backslash, tab, newline and carriage return escaped.

    Source: PostgreSQL documentation, COPY, "Text Format".
    """
    # Four scans in C cost less than one translation table, and most values have none of the four.
    if "\\" in value:
        value = value.replace("\\", "\\\\")
    if "\n" in value:
        value = value.replace("\n", "\\n")
    if "\t" in value:
        value = value.replace("\t", "\\t")
    if "\r" in value:
        value = value.replace("\r", "\\r")
    return value


def copy_field(value: object) -> str:
    r"""Return a number, instant or text as a field of COPY, None as `\N`."""
    return _NULL if value is None else escaped(str(value))


def array_literal(values: Sequence[str] | None) -> str | None:
    """Return texts as an array literal, not yet escaped as a field; None stays None.

    Source: PostgreSQL documentation, Arrays, "Array Input and Output Syntax".
    """
    if values is None:
        return None
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"


def json_rows(rows: Iterable[object]) -> str:
    """Return rows, as mappings or records, for `json_to_recordset`; decimals go as text, exactly.

    One JSON parameter for many rows: the driver's arrays cost the caller ten times the time a row.
    Texts must be `storable`: the database refuses JSON that holds a NUL.

    Raises:
        ValueRefusedError: A value is none that JSON can carry.
    """
    return json_text(list(rows))


def json_text(value: object) -> str:
    """Return a value as JSON; decimals go as text, exactly.

    Raises:
        ValueRefusedError: It is nested too deep, or holds what JSON can't carry.
    """
    try:
        return orjson.dumps(value, default=_exact).decode()
    except TypeError as error:
        raise ValueRefusedError(f"a value can't be sent to the database: {error}") from error


_SHORTEST_MOVED = 200
"""A shorter text stands in the response too: to move it would save next to nothing."""
_MOVED = {"stored_in": "answer"}
"""Stands for the text in a response. No endpoint's: what is no text there is no answer."""


def without_text(response: Mapping[str, Any], answer: str | None) -> Mapping[str, Any]:
    """Return a response whose first choice's text, if it is the answer, is stored as that alone.

    Args:
        response: A chat completion, or a plain one; it is not changed.
        answer: The answer, as it is stored.
    """
    if answer is None or len(answer) < _SHORTEST_MOVED:
        return response
    place = _text_place(response)
    if place is None or place[0].get(place[1]) != answer:
        return response
    holder = {**place[0], place[1]: _MOVED}
    first, *others = response["choices"]
    moved = {**first, "message": holder} if place[1] == "content" else holder
    return {**response, "choices": [moved, *others]}


def put_text_back(response: Mapping[str, Any], answer: str | None) -> None:
    """Put the answer back into a response that was stored without it."""
    place = _text_place(response)
    if place is not None and answer is not None and place[0].get(place[1]) == _MOVED:
        place[0][place[1]] = answer


def _text_place(response: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Return what holds the text of the first choice, and by which name."""
    choices = response.get("choices") if isinstance(response, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return None
    message = first.get("message")
    return (message, "content") if isinstance(message, dict) else (first, "text")


def _exact(value: object) -> str:
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"no column takes a {type(value).__name__}")


def array_of(sent: bytes | None, kind: str, dimensions: int = 1) -> Shaped[np.ndarray, " values"]:
    """Return the elements of an array as PostgreSQL's `array_send` puts it; none of them is null.

    Big-endian words: dimensions, null flag, element type, two for each dimension; then length and
    value of each element. Source: PostgreSQL, `array_send` in arrayfuncs.c.

    Args:
        sent: The bytes; None stands for an array without elements.
        kind: numpy's type of an element, big-endian.
        dimensions: Of the array.
    """
    if sent is None:
        return np.empty(0, kind)
    element = np.dtype([("length", ">i4"), ("value", kind)])
    return np.frombuffer(sent, element, offset=12 + 8 * dimensions)["value"]


@overload
def storable(text: str) -> str: ...
@overload
def storable(text: None) -> None: ...
def storable(text: str | None) -> str | None:
    """Replace what the database's UTF-8 can't hold (NUL, lone surrogates) by U+FFFD."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return unicode_text(text.replace("\0", "\ufffd"))
