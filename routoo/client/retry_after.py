"""How long an endpoint asks to be left alone (RFC 9110, section 10.2.3)."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return the wait that a response's headers ask for, in seconds, None where they ask none.

    Args:
        headers: The response's headers; `retry-after-ms`, where a server sends it, is finer.
        now: The current time, with time zone: `Retry-After` may be a date.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    return parse_retry_after(headers.get("Retry-After"), now)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` value asks for, at least 0, None if it is unusable.

    Args:
        value: Seconds ("30"), or an HTTP date ("Sun, 06 Nov 1994 08:49:37 GMT").
        now: The current time, with time zone.
    """
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds is not None:
        return seconds
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000": the date is UTC, RFC 5322 says only its origin is unknown
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
