"""What a process holds back by itself, before the shared account has its say."""

from typing import Any

from routoo.client.limiter.endpoint_limiter import EndpointLimiter
from routoo.errors import EndpointUnavailableError
from routoo.limits.breaker import FAILURES_TO_OPEN
from routoo.limits.records import EndpointLimits, Grant


async def test_an_endpoint_that_keeps_failing_stays_suspected_until_it_answers() -> None:
    clock_s = 1_000.0
    limiter = EndpointLimiter("e", "me", EndpointLimits(100), lambda: None)
    limiter.now_s = lambda: clock_s
    for _ in range(FAILURES_TO_OPEN - 1):
        limiter.note_failure(EndpointUnavailableError("down"))
    assert limiter.outage_s == 0
    for _ in range(3):  # the shared account is slow to answer: calls start anew, and fail again
        limiter.note_failure(EndpointUnavailableError("down"))
        assert limiter.outage_s > 0
        clock_s += 5.0
        assert limiter.outage_s == 0
    limiter.note_answer()
    limiter.note_failure(EndpointUnavailableError("down"))
    assert limiter.outage_s == 0


def _grant(**said: Any) -> Grant:
    known = {"slots": 0, "calls": None, "bucket_no": 0, "closed_s": 30.0, "outage_s": 7.0}
    return Grant(**(known | {"report_again_s": 1.0} | said))


async def test_an_outage_goes_on_between_two_reports() -> None:
    clock_s = 1_000.0
    limiter = EndpointLimiter("e", "me", EndpointLimits(100), lambda: None)
    limiter.now_s = lambda: clock_s
    limiter.accept(_grant())
    assert limiter.absence is not None
    assert not limiter.absence.is_long
    clock_s += 5.0
    assert limiter.outage_s == 12.0
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
