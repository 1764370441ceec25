"""No stretch of time ever sees more than a limit, however the calls fall."""

from hypothesis import given
from hypothesis import strategies as st

from routoo.limits.sliding_window import SLACK_S, USE_WITHIN_S, SlidingWindow

SPAN_S = 6.0
LIMIT = 50


@given(
    st.lists(
        st.tuples(
            st.floats(0, 3), st.integers(1, 20), st.floats(0, USE_WITHIN_S), st.floats(0, SLACK_S)
        ),
        max_size=60,
    )
)
def test_no_window_sees_more_than_the_limit_at_the_endpoint(
    asked: list[tuple[float, int, float, float]],
) -> None:
    window, now_s = SlidingWindow(SPAN_S), 1_000_000.0
    seen: list[tuple[float, int]] = []
    for pause_s, amount, used_after_s, way_s in asked:
        now_s += pause_s
        bucket_no = window.advance(now_s)
        if window.room(LIMIT) >= amount:
            window.add(bucket_no, amount)
            seen.append((now_s + used_after_s + way_s, amount))
    for start_s, _ in seen:
        assert sum(n for at_s, n in seen if start_s <= at_s <= start_s + SPAN_S) <= LIMIT


def test_a_limit_is_used_almost_in_full() -> None:
    window, now_s, granted = SlidingWindow(60.0), 0.0, 0
    while now_s < 600:
        bucket_no = window.advance(now_s)
        if window.room(100) >= 1:
            window.add(bucket_no, 1)
            granted += 1
        now_s += 0.1
    assert granted >= 0.95 * 1000


def test_a_limit_is_not_used_up_at_once() -> None:
    window = SlidingWindow(60.0)
    bucket_no = window.advance(1000.0)
    granted = 0
    while window.room(100) >= 1:
        window.add(bucket_no, 1)
        granted += 1
    assert granted == 25


def test_what_was_estimated_too_high_is_given_back_where_it_was_counted() -> None:
    window = SlidingWindow(60.0)
    bucket_no = window.advance(1000.0)
    window.add(bucket_no, 90)
    window.advance(1030.0)
    window.add(bucket_no, -80)
    assert window.room(100) == 90


def test_a_clock_that_goes_back_gives_nothing_back() -> None:
    window = SlidingWindow(60.0)
    window.add(window.advance(1000.0), 100)
    window.advance(900.0)
    assert window.room(100) == 0
