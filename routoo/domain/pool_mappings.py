"""Mappings of a pool file that records keep as pairs, so that records have a hash."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

PartTokens = Annotated[
    tuple[tuple[Annotated[str, Field(min_length=1)], Annotated[int, Field(ge=0)]], ...],
    BeforeValidator(lambda given: tuple(given.items()) if isinstance(given, Mapping) else given),
    PlainSerializer(dict),
]
"""Tokens by kind of content part: pairs of both."""


_FIXED_FIELDS = frozenset(
    {
        *("model", "messages", "prompt", "stream", "stream_options", "tools", "functions"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"),
        *("response_format", "logit_bias"),
    }
)
"""Request fields that are a row's own, or that other keys of the pool are for."""


def _read_parameters(value: object) -> object:
    """Take request fields as a mapping, or as the pairs that the record keeps."""
    if not isinstance(value, Mapping):
        return value
    for name in value:
        if not isinstance(name, str) or name in _FIXED_FIELDS:
            msg = f"parameters names {name}, which is a row's own, or another key of the pool"
            raise ValueError(msg)
    return tuple((name, _as_json(value[name])) for name in sorted(value))


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, default=_plain_number, allow_nan=False, sort_keys=True)
    except (TypeError, RecursionError) as error:
        msg = f"parameters holds what JSON can't carry: {error}"
        raise ValueError(msg) from error


def _plain_number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)  # a pool file's numbers are exact
    msg = f"a {type(value).__name__}"
    raise TypeError(msg)


Parameters = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_read_parameters),
    PlainSerializer(lambda value: {name: json.loads(text) for name, text in value}),
]
"""Fields of a request by name; kept as pairs of name and JSON text, so that a record has a hash."""
