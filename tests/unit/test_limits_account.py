"""The account of an endpoint: slots, rates, back-off and breaker over several processes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routoo.limits.account import LEASE_S, Account, fair_shares
from routoo.limits.records import CallCounts, Correction, EndpointLimits, EndpointReport
from routoo.store.endpoints import account_of_json, account_to_json

LIMITS = EndpointLimits(concurrency=8)


def report(
    owner: str = "a", in_flight: int = 0, waiting: int = 0, **more: object
) -> EndpointReport:
    return replace(EndpointReport("e", owner, LIMITS, in_flight, waiting), **more)


@given(st.integers(0, 40), st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 30)))
def test_shares_are_whole_and_no_more_than_there_is_and_nothing_wanted_is_left(
    slots: int, wanted: dict[str, int]
) -> None:
    shares = fair_shares(slots, wanted)
    assert sum(shares.values()) == min(slots, sum(wanted.values()))
    assert all(0 <= shares[name] <= wanted[name] for name in wanted)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20), st.floats(0, 3)), max_size=60)
)
def test_processes_together_never_fly_more_calls_than_the_endpoint_bears(
    steps: list[tuple[str, int, float]],
) -> None:
    account, now_s = Account(), 1000.0
    in_flight = dict.fromkeys("abc", 0)
    for owner, waiting, pause_s in steps:
        now_s += pause_s
        # A process that was silent for the length of a lease has seen its calls end.
        for name in set(in_flight) - {owner}:
            if name not in account.leases or account.leases[name].expires_at_s <= now_s:
                in_flight[name] = 0
        grant = account.answer(report(owner, in_flight[owner], waiting), now_s)
        in_flight[owner] = max(in_flight[owner] // 2, min(in_flight[owner] + waiting, grant.slots))
        assert sum(in_flight.values()) <= LIMITS.concurrency


def test_a_second_process_gets_its_half_as_the_first_ones_calls_end() -> None:
    account = Account()
    assert account.answer(report("a", waiting=50), 0.0).slots == 8
    assert account.answer(report("b", waiting=50), 0.1).slots == 0
    assert account.answer(report("a", in_flight=8, waiting=50), 0.2).slots <= 4
    assert account.answer(report("a", in_flight=4, waiting=50), 0.5).slots == 4
    assert account.answer(report("b", waiting=50), 0.6).slots == 4


def test_the_slots_of_a_process_that_died_come_back() -> None:
    account = Account()
    account.answer(report("a", waiting=50), 0.0)
    assert account.answer(report("b", waiting=50), LEASE_S + 0.1).slots == 8


def test_calls_that_wait_for_slots_are_a_queue_by_what_calls_take() -> None:
    account = Account()
    account.answer(report("a", in_flight=8, waiting=12, call_s=4.0), 0.0)
    assert account.slot_s == account.interval_s == 0.5  # 8 slots
    assert account.queue_s(1.0) == 12 * 0.5
    account.answer(report("a", in_flight=8), 1.0)  # says nothing of calls
    assert (account.slot_s, account.queue_s(2.0)) == (0.5, 0.0)
    limited = EndpointLimits(8, requests_per_minute=60)
    account.answer(report("a", limits=limited, in_flight=1, waiting=5, call_s=4.0), 2.0)
    assert account.queue_s(3.0) == 6.0  # the limit per minute lets fewer through


def test_rates_are_counted_over_all_processes_and_corrected_by_what_calls_took() -> None:
    account, limits = Account(), EndpointLimits(100, tokens_per_minute=400)
    wanted = {"limits": limits, "waiting": 9, "wanted_tokens": (50,) * 9}
    first = account.answer(report("a", **wanted), 0.0)
    assert first.calls == 2  # a quarter of a minute's tokens at once
    assert account.answer(report("b", **wanted), 0.1).calls == 0
    fix = (Correction(first.bucket_no, 0, -60),)
    assert account.answer(report("b", **wanted, corrections=fix), 0.2).calls == 1


def test_a_call_larger_than_the_limit_waits_for_an_empty_window_and_then_goes() -> None:
    account, limits = Account(), EndpointLimits(100, tokens_per_minute=400)
    one = {"limits": limits, "waiting": 1}
    assert account.answer(report(**one, wanted_tokens=(50,)), 0.0).calls == 1
    assert account.answer(report(**one, wanted_tokens=(500,)), 1.0).calls == 0
    assert account.answer(report(**one, wanted_tokens=(500,)), 70.0).calls == 1


def test_an_overload_takes_slots_and_answers_bring_them_back() -> None:
    account = Account()
    slow = account.answer(report(waiting=50, counts=CallCounts(overloaded=3)), 10.0).slots
    assert slow == 5
    again = account.answer(report(waiting=50, counts=CallCounts(overloaded=3)), 10.2).slots
    assert again == slow  # refused together, counted once
    for tick in range(20):
        last = account.answer(report(waiting=50, counts=CallCounts(answered=5)), 11.0 + tick)
    assert last.slots == 8


def test_a_refusal_now_and_then_takes_no_slots() -> None:
    account = Account()
    for tick in range(50):
        seen = CallCounts(answered=60, overloaded=1)
        assert account.answer(report(waiting=50, counts=seen), tick).slots == 8


def test_a_pause_that_one_process_was_asked_for_holds_for_all() -> None:
    account = Account()
    account.answer(report("a", counts=CallCounts(overloaded=1, pause_s=5.0)), 0.0)
    assert 3.9 <= account.answer(report("b", waiting=1), 1.0).closed_s <= 4.0
    assert account.answer(report("b", waiting=1), 5.1).closed_s == 0


def test_a_breaker_opens_lets_one_call_try_and_closes_with_its_answer() -> None:
    account, down = Account(), CallCounts(failed=12)
    assert account.answer(report("a", waiting=9, counts=down), 0.0).closed_s >= 1.0
    probe = account.answer(report("a", waiting=9), 1.1)
    assert (probe.slots, probe.closed_s) == (1, 0.0)
    assert account.answer(report("b", waiting=9), 1.2).closed_s > 0  # one at a time
    failed = account.answer(report("a", waiting=9, counts=CallCounts(failed=1)), 1.3)
    assert failed.closed_s > 1.9  # twice as long
    account.answer(report("b", waiting=9), 4.0)
    healed = account.answer(report("b", waiting=9, counts=CallCounts(answered=1)), 4.1)
    assert (healed.closed_s, healed.outage_s) == (0.0, 0.0)
    assert healed.slots > 1


def test_an_outage_that_nobody_looked_at_for_long_begins_anew() -> None:
    account = Account()
    account.answer(report("a", counts=CallCounts(failed=12)), 0.0)
    for tick in range(1, 5):
        watched = account.answer(report("a", waiting=9), tick * 200.0)
        assert watched.outage_s == tick * 200.0
    account.answer(report("a", waiting=9), 7200.0)
    failed = account.answer(report("a", waiting=9, counts=CallCounts(failed=1)), 7201.0)
    assert failed.closed_s > 0
    assert failed.outage_s == pytest.approx(1.0)


def test_now_and_then_a_failure_opens_no_breaker() -> None:
    account = Account()
    for tick in range(100):
        grant = account.answer(report(waiting=9, counts=CallCounts(answered=4, failed=3)), tick)
        assert grant.outage_s == 0


def test_an_account_survives_being_stored() -> None:
    account = Account()
    limits = EndpointLimits(100, requests_per_minute=40)
    account.answer(report(limits=limits, waiting=3, wanted_tokens=(1, 2, 3)), 50.0)
    account.answer(report(counts=CallCounts(failed=20, overloaded=1, pause_s=1.0)), 51.0)
    assert account_of_json(account_to_json(account), account.span_s) == account


def test_the_keys_of_a_stored_account_stay_for_processes_of_another_version() -> None:
    account = Account()
    account.answer(report(waiting=3), 50.0)
    stored = account_to_json(account)
    assert stored["seats"] == {"a": {"places": 3, "wanted": 3, "expires_at_s": 50.0 + LEASE_S}}
    assert stored.keys() == {
        *("span_s", "seats", "bearable", "refused", "backed_off_at_s", "paused_until_s"),
        *("learnt_requests_per_minute", "learnt_tokens_per_minute"),
        *("breaker", "requests", "tokens", "asked_until_s", "denied", "reported_at_s"),
        *("header_requests_period_s", "header_tokens_period_s", "held_since_s", "rate_per_s"),
        "slot_s",
    }


@pytest.mark.parametrize(
    ("limit", "period_s", "least_a_minute"), [(10, 12.0, 40), (10, 1.0, 550), (5, 30.0, 9)]
)
def test_a_limit_of_the_endpoints_own_window_holds_in_each_of_them(
    limit: int, period_s: float, least_a_minute: int
) -> None:
    account, starts_s = Account(), []
    named = CallCounts(
        header_requests_per_minute=int(limit * 60 / period_s), header_requests_period_s=period_s
    )
    for tick in range(1_200):
        now_s = 1_000.0 + tick / 10
        asked = {"waiting": 20, "wanted_tokens": (1,) * 20, "counts": named}
        calls = account.answer(report(**asked), now_s).calls
        starts_s += [now_s] * (calls or 0)
    for first_s in starts_s:
        within = sum(first_s <= start_s < first_s + period_s - 1e-6 for start_s in starts_s)
        assert within <= limit
    assert sum(start_s >= 1_060.0 for start_s in starts_s) >= least_a_minute


def test_an_endpoint_that_a_person_holds_starts_no_call_until_it_is_let_go() -> None:
    account = Account(held_since_s=100.0)
    stored = account_of_json(account_to_json(account), account.span_s)
    grant = stored.answer(report(waiting=5), 160.0)
    assert grant.closed_s > 0
    assert grant.outage_s == pytest.approx(60.0)
    stored.held_since_s = 0.0
    grant = stored.answer(report(waiting=5), 161.0)
    assert (grant.closed_s, grant.outage_s, grant.slots) == (0.0, 0.0, 5)
