"""What a process holds back by itself, before the shared account has its say."""

from routoo.client.limiter.endpoint_limiter import EndpointLimiter
from routoo.errors import EndpointUnavailableError
from routoo.limits.breaker import FAILURES_TO_OPEN
from routoo.limits.records import EndpointLimits


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
