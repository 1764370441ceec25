"""What a process holds back by itself, before the shared account has its say."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from routoo.client.limiter.account_exchange import AccountExchange, SlotUse
from routoo.client.limiter.endpoint_limiter import EndpointLimiter, WaitingCall
from routoo.domain.absence import AbsenceReason
from routoo.errors import (
    DenialReason,
    EndpointDeniedError,
    EndpointUnavailableError,
    RequestNotFoundError,
)
from routoo.limits.account import LEASE_MARGIN_S, LEASE_S, Account
from routoo.limits.breaker import FAILURES_TO_OPEN
from routoo.limits.records import EndpointLimits, EndpointReport, Grant


async def test_an_endpoint_that_keeps_failing_stays_suspected_until_it_answers() -> None:
    clock_s = 1_000.0
    limiter = EndpointLimiter("e", "me", EndpointLimits(100), lambda: None)
    limiter.now_s = lambda: clock_s
    for _ in range(FAILURES_TO_OPEN - 1):
        limiter.note_failure(EndpointUnavailableError("down"))
    assert limiter.absence is None
    for _ in range(3):  # the shared account is slow to answer: calls start anew, and fail again
        limiter.note_failure(EndpointUnavailableError("down"))
        assert limiter.absence is not None
        clock_s += 5.0
        assert limiter.absence is None
    limiter.note_answer()
    limiter.note_failure(EndpointUnavailableError("down"))
    assert limiter.absence is None


def _grant(**said: Any) -> Grant:
    known = {"slots": 0, "calls": None, "bucket_no": 0, "closed_s": 30.0, "outage_s": 7.0}
    return Grant(**(known | {"report_again_s": 1.0} | said))


async def test_an_outage_goes_on_between_two_reports() -> None:
    clock_s = 1_000.0
    limiter = EndpointLimiter("e", "me", EndpointLimits(100), lambda: None)
    limiter.now_s = lambda: clock_s
    limiter.accept(_grant())
    assert limiter.absence is not None
    assert limiter.absence.lasted_s == 7.0
    clock_s += 5.0
    assert limiter.absence.lasted_s == 12.0
    assert limiter.absence.is_long


async def test_the_account_is_asked_again_about_a_denial() -> None:
    limiter = EndpointLimiter("e", "me", EndpointLimits(100), lambda: None)
    limiter.accept(_grant(denied="no such key"))
    assert limiter.due_at_s is None
    limiter.look_again()
    assert limiter.due_at_s is not None
    limiter.report()
    limiter.accept(_grant(closed_s=0.0, outage_s=0.0))
    assert limiter.absence is None
    assert limiter.due_at_s is None


LIMITS = EndpointLimits(concurrency=6)


def _denial(reason: DenialReason = DenialReason.NO_API) -> EndpointDeniedError:
    return EndpointDeniedError("HTTP 404: no message", reason=reason, http_status=404)


async def _limiter_in_use(slots: int, **said: Any) -> EndpointLimiter:
    """Return a limiter with so many calls in flight."""
    limiter = EndpointLimiter("e", "me", EndpointLimits(slots), lambda: None)
    limiter.report()
    limiter.accept(_grant(slots=slots, closed_s=0.0, outage_s=0.0, **said))
    for _ in range(slots):
        limiter.admit(retry=False)
        await limiter.start(WaitingCall(1))
    return limiter


async def test_a_denial_without_a_reason_is_the_requests_own_where_others_are_answered() -> None:
    limiter = await _limiter_in_use(2)
    limiter.note_answer()
    found = limiter.note_failure(_denial())
    assert isinstance(found, RequestNotFoundError)
    assert "HTTP 404: no message; it answers other requests" in str(found)
    assert limiter.absence is None
    for reason in (DenialReason.UNAUTHORIZED, DenialReason.NO_CREDIT, DenialReason.MISCONFIGURED):
        limiter.note_answer()
        other = _denial(reason)
        assert limiter.note_failure(other) is other
        assert limiter.absence is not None
        assert limiter.absence.reason is AbsenceReason.DENIED
        limiter.accept(_grant(closed_s=0.0, outage_s=0.0))


async def test_the_endpoint_denies_once_nothing_but_denials_comes() -> None:
    limiter = await _limiter_in_use(2)
    limiter.note_answer()
    found = [limiter.note_failure(_denial()) for _ in range(10)]
    assert [isinstance(one, RequestNotFoundError) for one in found] == [True] * 9 + [False]
    # The first is the request's own if others are answered; of a row of them nobody knows.
    assert [one.most_attempts < 4 for one in found] == [True] + [False] * 9
    assert limiter.absence is not None
    assert limiter.absence.reason is AbsenceReason.DENIED
    assert limiter.report().counts.denied


async def test_an_answer_to_another_process_shows_that_an_endpoint_answers() -> None:
    limiter = await _limiter_in_use(1, is_answering=True)
    assert isinstance(limiter.note_failure(_denial()), RequestNotFoundError)


async def test_before_any_answer_the_calls_in_flight_show_what_a_denial_means() -> None:
    limiter = await _limiter_in_use(3)
    denial = _denial()
    assert limiter.note_failure(denial) is denial
    limiter.release(started=True)
    assert limiter.absence is not None
    assert limiter.absence.reason is AbsenceReason.UNAVAILABLE
    assert limiter.room == 0.0
    limiter.note_answer()
    assert limiter.absence is None
    assert limiter.room > 0

    limiter = await _limiter_in_use(2)
    limiter.note_failure(_denial())
    limiter.release(started=True)
    limiter.note_failure(_denial())  # of the last one in flight
    assert limiter.absence is not None
    assert limiter.absence.reason is AbsenceReason.DENIED
    assert limiter.report().counts.denied

    limiter = await _limiter_in_use(2)
    limiter.note_failure(_denial())
    limiter.release(started=True)
    limiter.note_failure(EndpointUnavailableError("late"))
    limiter.release(started=True)
    assert limiter.absence is None  # the next call will tell


@dataclass(slots=True)
class Process:
    """One process at an endpoint: its calls, and the exchange that is under way."""

    name: str
    use: SlotUse = field(default_factory=SlotUse)
    exchange: AccountExchange = field(init=False)
    report: EndpointReport | None = None
    grant: Grant | None = None

    def __post_init__(self) -> None:
        self.exchange = AccountExchange("e", self.name)

    def step(self, what: str, account: Account, now_s: float) -> None:
        match what:
            case "want":
                self.use.admitted += 4
            case "end":
                self.use.in_flight = max(0, self.use.in_flight - 2)
            case "report" if self.report is None:
                self.report = self.exchange.report(
                    LIMITS, self.use, [], queued=0, call_s=0.0, now_s=now_s
                )
            case "answer" if self.report is not None and self.grant is None:
                self.grant = account.answer(self.report, now_s)
            case "lose":
                self.report = self.grant = None
            case "accept" if self.grant is not None:
                self.use.slots = self.grant.slots
                ends_s = self.exchange.reported_at_s + LEASE_S - LEASE_MARGIN_S
                self.use.expires_at_s = ends_s
                self.exchange.accept(self.grant)
                self.report = self.grant = None
        while self.use.admitted and self.use.has_free_slot(now_s):
            self.use.start()


_STEPS = ["want", "end", "report", "answer", "accept", "lose", "kill"]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(_STEPS), st.floats(0, 0.05))))
def test_calls_in_flight_are_no_more_than_places_however_reports_and_deaths_overlap(
    steps: list[tuple[int, str, float]],
) -> None:
    account, now_s, born = Account(), 1_000.0, 3
    processes = [Process(f"process-{number}") for number in range(3)]
    for number, what, wait_s in steps:
        now_s += wait_s
        if what == "kill":
            processes[number] = Process(f"process-{born}")
            born += 1
        else:
            processes[number].step(what, account, now_s)
        assert sum(one.use.in_flight for one in processes) <= LIMITS.concurrency


def test_slots_are_not_granted_twice_after_the_database_was_away() -> None:
    account = Account()
    busy, other = Process("busy"), Process("other")
    for what in ("want", "want", "report", "answer", "accept"):
        busy.step(what, account, 1_000.0)
    assert busy.use.in_flight == LIMITS.concurrency
    other.use.admitted = 4
    report = other.exchange.report(LIMITS, other.use, [], queued=0, call_s=0.0, now_s=1_060.0)
    assert account.answer(report, 1_060.0, up_since_s=1_059.0).slots == 0


async def test_calls_start_soon_as_far_as_slots_are_free() -> None:
    limiter = EndpointLimiter("e", "me", EndpointLimits(100), lambda: None)
    limiter.report()
    limiter.accept(_grant(slots=2, closed_s=0.0, outage_s=0.0))
    calls = [WaitingCall(10) for _ in range(4)]
    soon = []
    for call in calls:
        limiter.admit(retry=False)
        soon.append(limiter.starts_soon(call))
    assert soon == [True, False, False, False]
