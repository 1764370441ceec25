"""Decodes answers, those too that strict JSON refuses: they were paid for."""

import codecs
import json
import math

import orjson

from routoo.domain.prompt import unicode_text
from routoo.errors import InvalidResponseError

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decode_json(raw: bytes, *, where: str, http_status: int) -> object:
    """Return the body of a successful response.

    What strict JSON refuses is replaced: numbers that are none by null, half a surrogate and bytes
    that are no UTF-8 by U+FFFD. A byte-order mark and control characters in texts are read.

    Args:
        raw: The body.
        where: The endpoint's URL for messages.
        http_status: Of the response.

    Raises:
        InvalidResponseError: It is not JSON, or nested too deep to be kept.
    """
    try:
        try:
            answer: object = orjson.loads(raw)
        except orjson.JSONDecodeError:
            answer = _decode_leniently(raw)
        orjson.dumps(answer)  # what can be read may be nested too deep to be written again
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidResponseError(
            _what_is_wrong(error), where=where, http_status=http_status
        ) from None  # its cause would keep the whole answer in memory
    return answer


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, TypeError | RecursionError):
        return "the answer is nested too deep to be kept"
    return f"the answer is not JSON: {error}"


def _decode_leniently(raw: bytes) -> object:
    encoding = next(
        (name for mark, name in _BYTE_ORDER_MARKS.items() if raw.startswith(mark)), None
    )
    text = raw.decode(encoding or "utf-8", errors="replace")
    answer = json.loads(
        text, strict=False, parse_constant=_none_of, parse_float=_finite, parse_int=_finite_int
    )
    return orjson.loads(unicode_text(json.dumps(answer, ensure_ascii=False)))


def _none_of(_constant: str) -> None:
    """Stand for NaN and Infinity."""


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _finite_int(text: str) -> int | float | None:
    return int(text) if len(text) < len(str(2**63)) else _finite(text)
