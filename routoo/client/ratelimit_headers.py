"""Reads what the headers of an answer say of an endpoint's limits.

Three kinds are read: `Retry-After` (RFC 9110, section 10.2.3), OpenAI's `x-ratelimit-*`, which many
compatible servers send, and Anthropic's `anthropic-ratelimit-*`, whose resets are instants.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from multidict import istr

_LIMIT, _REMAINING, _RESET = (f"x-ratelimit-{what}-" for what in ("limit", "remaining", "reset"))
_REQUEST_LIMIT, _TOKEN_LIMIT = istr(f"{_LIMIT}requests"), istr(f"{_LIMIT}tokens")
"""Made once, because they are looked up in the headers of every answer."""
_ANTHROPIC = "anthropic-ratelimit-"
_ANTHROPIC_REQUESTS, _ANTHROPIC_TOKENS = (
    istr(f"{_ANTHROPIC}{kind}-limit") for kind in ("requests", "tokens")
)
_ANTHROPIC_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST_PERIOD_S = 90.0
"""Of a limit whose period is longer, such as one a day, only its exhaustion counts."""
_MINUTE_S, _SHORTEST_MINUTE_S = 60.0, 40.0
"""Periods from the second to the longest are taken for a minute: they are inferred roughly."""
_SHORTEST_PERIOD_S = 0.001
_HIGHEST_LIMIT = 10**9
_LONGEST_WAIT_S = 366 * 86_400.0
"""Longer waits are absurd, and infinite ones would break what is computed with them."""


@dataclass(frozen=True, slots=True)
class PeriodLimit:
    """A limit of requests or tokens in any period of some length."""

    limit: int
    period_s: float
    """In seconds, at most `_LONGEST_PERIOD_S`."""

    @property
    def per_minute(self) -> int:
        """The same rate as a limit per minute, at least 1."""
        if self.period_s >= _SHORTEST_MINUTE_S:
            return self.limit
        return max(1, min(_HIGHEST_LIMIT, int(self.limit * _MINUTE_S / self.period_s)))

    @property
    def own_window_s(self) -> float | None:
        """The period where it is clearly shorter than a minute, in seconds; else None."""
        return self.period_s if self.period_s < _SHORTEST_MINUTE_S else None


@dataclass(frozen=True, slots=True)
class RateLimitHeaders:
    """The limits that an answer's headers name; None where they name none."""

    requests: PeriodLimit | None = None
    tokens: PeriodLimit | None = None
    pause_s: float = 0.0
    """How long until an exhausted limit is free again, in seconds."""


class KnownLimit:
    """What the answers of one endpoint said of a limit so far.

    A period is inferred from one answer. Where all of a limit comes back at once, at the period's
    end, an answer shortly before it makes the period look short: so the longest one counts.
    """

    def __init__(self) -> None:
        self._known: PeriodLimit | None = None

    def note(self, said: PeriodLimit | None) -> PeriodLimit | None:
        """Take in what an answer says; return what is known now, None where it says nothing."""
        if said is None:
            return None
        if (
            self._known is None
            or self._known.limit != said.limit
            or said.period_s > self._known.period_s
        ):
            self._known = said
        return self._known


def read_rate_limits(headers: Mapping[str, str]) -> RateLimitHeaders | None:
    """Return the limits that an answer's headers name; None where they name none.

    Args:
        headers: Of any answer; names in any case, as aiohttp gives them.
    """
    if _REQUEST_LIMIT not in headers and _TOKEN_LIMIT not in headers:
        if _ANTHROPIC_REQUESTS in headers or _ANTHROPIC_TOKENS in headers:
            return _anthropic(headers)
        return None
    pause_s = max(_pause_s(headers, "requests"), _pause_s(headers, "tokens"))
    return RateLimitHeaders(_limit(headers, "requests"), _limit(headers, "tokens"), pause_s)


def _anthropic(headers: Mapping[str, str]) -> RateLimitHeaders:
    """Return the limits that Anthropic's headers name, all of them a minute's.

    `tokens` stands for the strictest of the limits of input, output and both.
    """
    return RateLimitHeaders(
        _minute_limit(headers.get(_ANTHROPIC_REQUESTS)),
        _minute_limit(headers.get(_ANTHROPIC_TOKENS)),
        max(_anthropic_pause_s(headers, kind) for kind in _ANTHROPIC_KINDS),
    )


def _minute_limit(text: str | None) -> PeriodLimit | None:
    limit = _number(text)
    known = limit is not None and 1 <= limit <= _HIGHEST_LIMIT
    return PeriodLimit(int(limit or 0), _MINUTE_S) if known else None


def _anthropic_pause_s(headers: Mapping[str, str], kind: str) -> float:
    """Return how long an exhausted limit needs to be free again, by the server's own clock."""
    if _number(headers.get(f"{_ANTHROPIC}{kind}-remaining")) != 0:
        return 0.0
    now = http_date(headers.get("Date")) or datetime.now(UTC)
    try:
        reset = datetime.fromisoformat(headers.get(f"{_ANTHROPIC}{kind}-reset") or "")
    except ValueError:
        return 0.0
    reset = reset if reset.tzinfo else reset.replace(tzinfo=UTC)
    return min(max(0.0, (reset - now).total_seconds()), _LONGEST_WAIT_S)


def _limit(headers: Mapping[str, str], kind: str) -> PeriodLimit | None:
    """Return a limit; None where the headers name none, or one of a long period.

    The headers don't name the period, so it is inferred: what was used is free again after `reset`,
    and the whole limit in proportion.
    """
    limit = _number(headers.get(_LIMIT + kind))
    remaining = _number(headers.get(_REMAINING + kind))
    reset_s = duration_s(headers.get(_RESET + kind))
    if limit is None or not 1 <= limit <= _HIGHEST_LIMIT:
        return None
    if remaining is None or reset_s is None or remaining >= limit:
        return None
    period_s = reset_s * limit / (limit - remaining)
    known = _SHORTEST_PERIOD_S <= period_s <= _LONGEST_PERIOD_S
    return PeriodLimit(int(limit), period_s) if known else None


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
        return min(plain, _LONGEST_WAIT_S)
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text:
        return None
    return min(sum(float(number) * _UNIT_S[unit] for number, unit in parts), _LONGEST_WAIT_S)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def retry_after_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return the wait that a response's headers ask for, in seconds; None where they ask for none.

    Args:
        headers: The response's headers; `retry-after-ms`, where a server sends it, is finer.
        now: The current time, with time zone: `Retry-After` may be a date.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    return parse_retry_after(headers.get("Retry-After"), now)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` value asks for, at least 0, None if it can't be read.

    Args:
        value: Seconds ("30"), or an HTTP date ("Sun, 06 Nov 1994 08:49:37 GMT").
        now: The current time, with time zone.
    """
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds is not None:
        return seconds
    moment = http_date(value)
    return (
        None if moment is None else min(max(0.0, (moment - now).total_seconds()), _LONGEST_WAIT_S)
    )


def http_date(value: str | None) -> datetime | None:
    """Return an HTTP date as an instant; None where it is none."""
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, OverflowError):
        return None
    # "-0000": the date is UTC, RFC 5322 says only its origin is unknown
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _seconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return min(max(0.0, seconds), _LONGEST_WAIT_S) if math.isfinite(seconds) else None
