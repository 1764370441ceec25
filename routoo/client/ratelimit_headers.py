"""What an endpoint's `x-ratelimit-*` headers say of its limits."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import istr

_LIMIT, _REMAINING, _RESET = (f"x-ratelimit-{what}-" for what in ("limit", "remaining", "reset"))
_REQUEST_LIMIT, _TOKEN_LIMIT = istr(f"{_LIMIT}requests"), istr(f"{_LIMIT}tokens")
"""Ready for a look into the headers of every answer."""
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_PERIOD_S = 90.0
"""Limits of an hour or a day are not paced by the minute: only their exhaustion counts."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Limits of one kind; None where the headers don't tell."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    pause_s: float = 0.0
    """Until what is exhausted is there again."""


def learn_limits(headers: Mapping[str, str]) -> Learned | None:
    """Return what the headers of an answer say, None where they say nothing.

    Args:
        headers: Of any answer; names in any case, as aiohttp gives them.
    """
    if _REQUEST_LIMIT not in headers and _TOKEN_LIMIT not in headers:
        return None
    pause_s = max(_pause_s(headers, "requests"), _pause_s(headers, "tokens"))
    return Learned(_per_minute(headers, "requests"), _per_minute(headers, "tokens"), pause_s)


def _per_minute(headers: Mapping[str, str], kind: str) -> int | None:
    """Return a limit per minute.

    The headers don't name the period. What was taken comes back in the time that `reset` says, so
    the whole limit comes back in proportion.
    """
    limit = _number(headers.get(_LIMIT + kind))
    remaining = _number(headers.get(_REMAINING + kind))
    reset_s = duration_s(headers.get(_RESET + kind))
    if limit is None or limit < 1:
        return None
    if remaining is None or reset_s is None or remaining >= limit:
        return None
    period_s = reset_s * limit / (limit - remaining)
    return int(limit) if period_s <= _LONGEST_PERIOD_S else None


def _pause_s(headers: Mapping[str, str], kind: str) -> float:
    if _number(headers.get(_REMAINING + kind)) != 0:
        return 0.0
    return duration_s(headers.get(_RESET + kind)) or 0.0


def duration_s(text: str | None) -> float | None:
    """Return a duration such as "1s", "6m0s", "20ms" or "59.5" in seconds, None if it is none."""
    if not text:
        return None
    plain = _number(text)
    if plain is not None:
        return plain
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
