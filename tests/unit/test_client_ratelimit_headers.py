"""What an endpoint's headers say of its limits."""

from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.client.ratelimit_headers import (
    KnownLimit,
    PeriodLimit,
    RateLimitHeaders,
    duration_s,
    read_rate_limits,
    retry_after_s,
)
from routoo.limits.account import Account
from routoo.limits.records import CallCounts, EndpointLimits, EndpointReport
from routoo.store.endpoints import account_of_json, account_to_json

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def headers(kind: str, limit: str, remaining: str, reset: str) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": limit,
        f"x-ratelimit-remaining-{kind}": remaining,
        f"x-ratelimit-reset-{kind}": reset,
    }


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("59.5", 59.5)],
)
def test_durations_are_read_in_the_forms_that_endpoints_use(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [None, "", "soon", "5 minutes", "-3", "1s!"])
def test_what_is_no_duration_is_none(text: str | None) -> None:
    assert duration_s(text) is None


def test_a_limit_per_minute_is_read() -> None:
    found = read_rate_limits(
        headers("requests", "60", "59", "1s") | headers("tokens", "150000", "149984", "6ms")
    )
    assert found is not None
    assert found.requests is not None
    assert found.tokens is not None
    assert (found.requests.per_minute, found.tokens.per_minute) == (60, 150_000)
    assert found.pause_s == 0


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "per_minute"),
    [
        ("10", "9", "0.1s", 600),  # all of it in a second
        ("10", "0", "0.1s", 6_000),
        ("10", "9", "100ms", 600),
        ("10", "5", "6s", 50),
        ("10", "9", "6s", 10),
        ("10", "0", "1m0s", 10),
        ("100", "50", "45s", 100),  # 90 s: a minute, roughly
        ("10", "0", "0.000000001", None),
        ("10", "0", "0s", None),
        ("10", "10", "0.1s", None),
        ("10", "9", "10s", None),
        ("1e300", "1", "1s", None),
        ("1000000000", "0", "0.001s", 10**9),
        ("10", "-1", "1s", None),
        ("0", "0", "1s", None),
    ],
)
def test_a_limit_holds_for_the_period_that_its_reset_tells(
    limit: str, remaining: str, reset: str, per_minute: int | None
) -> None:
    found = read_rate_limits(headers("requests", limit, remaining, reset))
    assert found is not None
    assert (found.requests.per_minute if found.requests else None) == per_minute


def test_an_answer_shortly_before_a_reset_does_not_raise_a_known_limit() -> None:
    known = KnownLimit()
    short, minute = PeriodLimit(10, 0.1), PeriodLimit(10, 60.0)
    assert [known.note(said) for said in (short, minute, short)] == [short, minute, minute]
    assert known.note(None) is None
    assert known.note(PeriodLimit(20, 1.0)) == PeriodLimit(20, 1.0)


def test_only_a_period_that_is_clearly_no_minute_is_a_window_of_its_own() -> None:
    assert [PeriodLimit(10, length).own_window_s for length in (1.0, 39.0, 45.0, 60.0)] == [
        1.0,
        39.0,
        None,
        None,
    ]


def test_a_limit_per_day_is_not_taken_for_one_per_minute() -> None:
    found = read_rate_limits(headers("requests", "14400", "14370", "2m59.56s"))
    assert found == RateLimitHeaders(None, None, 0.0)


def test_what_is_exhausted_is_waited_for() -> None:
    found = read_rate_limits(headers("tokens", "1000", "0", "30s"))
    assert found is not None
    assert found.pause_s == 30


def test_an_answer_without_such_headers_says_nothing() -> None:
    assert read_rate_limits({"Content-Type": "application/json"}) is None


_ABSURD = st.one_of(
    st.sampled_from(["1e300", "inf", "nan", "-1", "0", "9" * 400, "9" * 400 + "d", "1e-320"]),
    st.floats().map(str),
    st.text(max_size=8),
)


@given(*[_ABSURD] * 4)
def test_absurd_values_never_break_what_is_computed_with_them(
    limit: str, remaining: str, reset: str, retry: str
) -> None:
    headers = {
        f"x-ratelimit-{what}-{kind}": value
        for kind in ("requests", "tokens")
        for what, value in (("limit", limit), ("remaining", remaining), ("reset", reset))
    }
    found = read_rate_limits(headers)
    assert found is not None
    account = Account()
    pause_s = max(found.pause_s, retry_after_s({"Retry-After": retry}, now=NOW) or 0.0)
    known = [None if one is None else one.per_minute for one in (found.requests, found.tokens)]
    counts = CallCounts(pause_s=pause_s, header_requests_per_minute=known[0])
    counts = replace(counts, header_tokens_per_minute=known[1])
    report = EndpointReport(
        "e", "a", EndpointLimits(8), waiting=3, wanted_tokens=(9,), counts=counts
    )
    account.answer(report, 1e9)
    stored = orjson.loads(orjson.dumps(account_to_json(account)))
    assert account_of_json(stored, account.span_s) == account
