"""Cron fields over changes of the clock."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.domain.calendar import Calendar
from routoo.errors import InputError

ZURICH = "Europe/Zurich"
NIGHTLY = Calendar("30 2 * * *", ZURICH)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def dues(calendar: Calendar, start: str, count: int) -> list[str]:
    found, instant = [], utc(start)
    for _ in range(count):
        instant = calendar.next_after(instant)
        found.append(f"{instant:%m-%d %H:%M}")
    return found


def test_a_time_that_spring_skips_is_due_right_after_the_gap() -> None:
    assert dues(NIGHTLY, "2027-03-26 12:00", 3) == ["03-27 01:30", "03-28 01:00", "03-29 00:30"]


def test_a_time_that_autumn_repeats_is_due_once() -> None:
    assert dues(NIGHTLY, "2027-10-29 12:00", 3) == ["10-30 00:30", "10-31 00:30", "11-01 01:30"]


def test_asked_within_the_repeated_hour_the_first_one_is_past() -> None:
    assert dues(NIGHTLY, "2027-10-31 01:10", 1) == ["11-01 01:30"]


def test_an_hourly_schedule_keeps_its_pace_over_both_changes() -> None:
    hourly = Calendar("0 * * * *", ZURICH)
    assert dues(hourly, "2027-03-28 00:30", 3) == ["03-28 01:00", "03-28 02:00", "03-28 03:00"]
    assert dues(hourly, "2027-10-30 23:30", 3) == ["10-31 00:00", "10-31 01:00", "10-31 02:00"]


@given(
    st.sampled_from(["30 2 * * *", "0 * * * *", "*/7 1-4 * * *", "15 3 * * 0"]),
    st.sampled_from([ZURICH, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
    st.integers(0, 2 * 365 * 24 * 60),
)
def test_the_next_instant_lies_ahead_and_none_lies_between(
    cron: str, zone: str, minutes: int
) -> None:
    calendar, start = Calendar(cron, zone), utc("2026-01-01") + timedelta(minutes=minutes)
    following = calendar.next_after(start)
    assert following > start
    between = start + (following - start) / 2
    assert calendar.next_after(between) == following


def test_the_latest_of_several_missed_instants_is_found_and_the_others_counted() -> None:
    first, now = utc("2027-03-01 01:30"), utc("2027-03-05 12:00")
    assert NIGHTLY.latest_due(first, now) == (utc("2027-03-05 01:30"), 4)


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("every night", "UTC", "the cron fields can't be used"),
        ("0 0 31 2 *", "UTC", "cron fields"),
        ("0 2 * * *", "Europe/Atlantis", "no such time zone"),
        ("0 2 * * *", "../etc/passwd", "no such time zone"),
    ],
)
def test_what_is_never_due_is_refused(cron: str, zone: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Calendar(cron, zone).next_after(utc("2027-01-01"))
