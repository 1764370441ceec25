"""JSON as commands print it."""

from decimal import Decimal
from typing import Any

import orjson


def json_line(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """Return a value as one line of JSON; amounts become numbers, instants ISO text."""
    return orjson.dumps(value, default=_plain).decode()


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    return str(value)
