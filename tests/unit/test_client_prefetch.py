"""How many calls get ready ahead of their places."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.client.limiter.prefetch import Lead

SECONDS = st.floats(0.0, 100.0)


def settled(ready_s: float, call_s: float) -> Lead:
    lead = Lead()
    for _ in range(500):
        lead.readied(ready_s)
        lead.called(call_s)
    return lead


def test_before_anything_is_known_a_third_of_the_places_is_ahead() -> None:
    assert Lead().calls(300) == 101


@pytest.mark.parametrize(("ready_s", "call_s", "ahead"), [(0.01, 3.0, 11), (0.01, 0.1, 301)])
def test_the_lead_is_the_commits_share_of_a_calls_time(
    ready_s: float, call_s: float, ahead: int
) -> None:
    assert abs(settled(ready_s, call_s).calls(1_000) - ahead) <= 1


@given(SECONDS, SECONDS, st.integers(0, 10_000))
def test_at_least_one_and_never_more_than_the_places_twice(
    ready_s: float, call_s: float, places: int
) -> None:
    lead = Lead()
    lead.readied(ready_s)
    lead.called(call_s)
    assert 1 <= lead.calls(places) <= places + 1
