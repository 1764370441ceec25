"""One job's way to its one result."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from routoo.domain.absence import Absence, AbsenceReason
from routoo.domain.behaviour import KnownBehaviour
from routoo.domain.completion import (
    Attempt,
    Completion,
    DeviationReason,
    Reservation,
    Result,
    Usage,
)
from routoo.domain.endpoint import Endpoint, LimitField
from routoo.domain.job import SLA, Job, PendingJob, ResultStatus
from routoo.domain.pool import CandidateModel, Tariff
from routoo.domain.prompt import bound_cost_usd
from routoo.errors import (
    ContentFilterError,
    ContextLengthError,
    EndpointError,
    EndpointTimeoutError,
    EndpointUnavailableError,
    LimitFieldRefusedError,
    RateLimitedError,
    RequestRejectedError,
)
from routoo.pipeline.dispatch.answer import Answerer
from routoo.pipeline.dispatch.fallback import Candidate
from routoo.pipeline.dispatch.job_state import JobState
from routoo.pipeline.dispatch.pending_writes import ReservationStatus
from tests.fakes.permit import OpenPermit

BODY = {"messages": [{"role": "user", "content": "What is two plus two?"}], "max_tokens": 10}


def candidate(name: str, price: int = 1, window: int = 1000) -> CandidateModel:
    return CandidateModel(
        name=name,
        endpoint=Endpoint(base_url="http://localhost:1/v1"),
        price_usd_per_mtok=Tariff(prompt=Decimal(price), completion=Decimal(price)),
        context_window_tokens=window,
    )


SMALL, LARGE = candidate("small"), candidate("large", price=10, window=8000)


class Script:
    """A client that answers by a script: an error, or None for a completion."""

    def __init__(self, *steps: EndpointError | None) -> None:
        self.steps = list(steps)
        self.behaviour = KnownBehaviour()
        self.permit: type[OpenPermit] = OpenPermit
        self.asked: list[str] = []
        self.timeouts_s: list[float | None] = []

    @asynccontextmanager
    async def admit(
        self, model: CandidateModel, _tokens: int, *, retry: bool = False
    ) -> AsyncIterator[OpenPermit]:
        del retry
        yield self.permit(model)

    async def look_again(self) -> None:
        """Nothing is denied."""

    def absence(self, model: CandidateModel) -> Absence | None:
        del model
        return None

    def queue_s(self, model: CandidateModel) -> float:
        del model
        return 0.0

    async def complete(
        self, model: CandidateModel, body: dict[str, Any], *, timeout_s: float | None = None
    ) -> Completion:
        del body
        self.asked.append(model.name)
        self.timeouts_s.append(timeout_s)
        step = self.steps.pop(0) if self.steps else None
        if step is not None:
            raise step
        return Completion("4", {"id": "x"}, Usage(20, 2), 200, 0.1)


class Out(Script):
    """A client all of whose endpoints are left alone since so many seconds."""

    def __init__(self, outage_s: float) -> None:
        super().__init__()
        self._outage_s = outage_s

    def absence(self, model: CandidateModel) -> Absence | None:
        del model
        return Absence(AbsenceReason.UNAVAILABLE, self._outage_s)


class MemoryCommit:
    """A group commit without a database; its outcomes follow a script, then it grants."""

    def __init__(self, *outcomes: ReservationStatus) -> None:
        self.outcomes = list(outcomes)
        self.reserved: list[Reservation] = []
        self.attempts: list[tuple[Attempt, Decimal]] = []
        self.results: list[Result] = []
        self.free: Decimal | None = None
        self.released: list[tuple[int, int]] = []
        self.forgotten: list[int] = []
        self.put_off: set[int] = set()
        """Jobs left pending for others; kept here because the commit outlives a run."""

    async def reserve(
        self, reservation: Reservation, starts_soon: Callable[[], bool]
    ) -> ReservationStatus:
        assert starts_soon()
        outcome = self.outcomes.pop(0) if self.outcomes else ReservationStatus.GRANTED
        if outcome is ReservationStatus.GRANTED:
            self.reserved.append(reservation)
        return outcome

    async def allow_sending(self, job_no: int, attempt_no: int) -> None:
        assert (job_no, attempt_no) in [(one.job_no, one.attempt_no) for one in self.reserved]

    async def free_usd(self, *, last_resort: bool) -> Decimal | None:
        del last_resort
        return self.free

    def forget_fallback(self, job_no: int) -> None:
        self.forgotten.append(job_no)

    def release(self, job_no: int, attempt_no: int) -> None:
        self.released.append((job_no, attempt_no))

    def settle(self, attempt: Attempt, result: Result | None = None) -> None:
        *_, worst = (
            one.worst_case_usd for one in self.reserved if one.attempt_no == attempt.attempt_no
        )
        self.attempts.append((attempt, worst))
        self.results += [result] if result else []

    def record(self, result: Result) -> None:
        self.results.append(result)


class NoJitter(Random):
    def uniform(self, a: float, b: float) -> float:
        del b
        return a


def run(
    script: Script,
    commit: MemoryCommit,
    models: Sequence[CandidateModel] = (SMALL, LARGE),
    *,
    sla: SLA | None = None,
    closing: bool = False,
    cost_usd: Decimal = Decimal(0),
) -> bool:
    async def main() -> bool:
        event = asyncio.Event()
        if closing:
            event.set()
        answerer = Answerer(script, commit, event, 2, rng=NoJitter(0))
        answerer.waiting.put_off = commit.put_off
        job = Job(7, "seven", BODY, sla or SLA())
        pending = PendingJob(job, models[0].name, (0.5, 0.9), (2.0, 2.0), 0, cost_usd)
        quality = {"small": 0.5, "large": 0.9}
        asked = [Candidate(one, quality.get(one.name), Decimal("0.001")) for one in models]
        return await answerer.answer(pending, asked)

    return asyncio.run(main())


def test_a_job_is_postponed_when_all_its_endpoints_stay_closed() -> None:
    client, commit = Out(11.0), MemoryCommit()
    assert not run(client, commit)
    assert (client.asked, commit.reserved, commit.results, commit.put_off) == ([], [], [], {7})


def test_a_job_ends_when_all_its_endpoints_were_closed_for_too_long() -> None:
    client, commit = Out(901.0), MemoryCommit()
    assert run(client, commit)
    assert (client.asked, commit.results[0].status) == ([], ResultStatus.FAILED)
    assert commit.put_off == set()


def test_a_job_is_postponed_when_no_money_comes_back_soon() -> None:
    script, commit = Script(), MemoryCommit(ReservationStatus.RETRY_LATER)
    assert not run(script, commit)
    assert (script.asked, commit.results, commit.put_off) == ([], [], {7})


def test_an_answer_is_settled_with_its_result_and_its_reported_usage() -> None:
    script, commit = Script(), MemoryCommit()
    assert run(script, commit)
    (result,) = commit.results
    assert result.status is ResultStatus.SUCCEEDED
    assert (result.model, result.attempts) == ("small", 1)
    assert result.cost_usd == Decimal(22) / 1_000_000
    assert commit.attempts[0][1] == commit.reserved[0].worst_case_usd > result.cost_usd


def test_a_retryable_error_is_retried_on_the_same_model() -> None:
    script, commit = Script(RateLimitedError("slow down", retry_after_s=0.0)), MemoryCommit()
    assert run(script, commit)
    assert script.asked == ["small", "small"]
    assert [attempt.status for attempt, _ in commit.attempts] == ["failed", "succeeded"]
    assert [attempt.attempt_no for attempt, _ in commit.attempts] == [1, 2]


def test_rate_limits_use_up_no_attempts() -> None:
    limits = [RateLimitedError("slow down", retry_after_s=0.0) for _ in range(9)]
    script, commit = Script(*limits), MemoryCommit()
    assert run(script, commit)
    assert script.asked == ["small"] * 10
    assert commit.results[0].status is ResultStatus.SUCCEEDED


def test_the_next_best_model_is_asked_when_a_model_keeps_failing() -> None:
    down = EndpointUnavailableError("down", retry_after_s=0.0)
    script, commit = Script(down, down), MemoryCommit()
    assert run(script, commit)
    assert script.asked == ["small", "small", "large"]
    assert commit.results[0].model == "large"


def test_a_rejected_request_is_not_repeated_to_the_same_model() -> None:
    script, commit = Script(RequestRejectedError("no")), MemoryCommit()
    run(script, commit)
    assert script.asked == ["small", "large"]


def test_a_prompt_that_outgrew_a_window_goes_only_to_a_wider_one() -> None:
    script, commit = Script(ContextLengthError("too long")), MemoryCommit()
    run(script, commit, [SMALL, candidate("alike"), LARGE])
    assert script.asked == ["small", "large"]


def test_the_last_error_is_the_result_when_every_model_failed() -> None:
    script, commit = Script(*[RequestRejectedError("no") for _ in range(2)]), MemoryCommit()
    assert run(script, commit)
    (result,) = commit.results
    assert result.status is ResultStatus.FAILED
    assert (result.model, result.error_code) == ("large", "request_rejected")


def test_a_call_that_may_have_been_billed_counts_at_its_worst_case() -> None:
    script, commit = Script(EndpointTimeoutError("silence", retry_after_s=0.0)), MemoryCommit()
    run(script, commit)
    first, worst = commit.attempts[0]
    assert first.cost_usd == worst
    assert commit.results[0].cost_usd == worst + commit.attempts[1][0].cost_usd


def test_an_unbilled_failure_costs_nothing() -> None:
    commit = MemoryCommit()
    run(Script(EndpointUnavailableError("down", retry_after_s=0.0)), commit)
    assert commit.attempts[0][0].cost_usd == 0


def test_money_in_flight_is_waited_for() -> None:
    script, commit = (
        Script(),
        MemoryCommit(ReservationStatus.RETRY_SOON, ReservationStatus.GRANTED),
    )
    assert run(script, commit)
    assert commit.results[0].status is ResultStatus.SUCCEEDED


def test_jobs_that_wait_for_money_are_postponed_when_their_model_goes_away() -> None:
    class Leaving(Script):
        looks = 0

        def absence(self, model: CandidateModel) -> Absence | None:
            del model
            self.looks += 1
            return Absence(AbsenceReason.UNAVAILABLE, 11.0) if self.looks > 3 else None

    async def main() -> list[bool]:
        commit = MemoryCommit(*[ReservationStatus.RETRY_SOON] * 3)
        answerer = Answerer(Leaving(), commit, asyncio.Event(), 2, rng=NoJitter(0))
        asked = [Candidate(SMALL, 0.5, Decimal("0.001"))]
        jobs = [Job(number, str(number), BODY, SLA()) for number in (1, 2, 3)]
        pending = [PendingJob(job, "small", (0.5,), (2.0,), 0, Decimal(0)) for job in jobs]
        async with asyncio.timeout(5):
            return await asyncio.gather(*(answerer.answer(one, asked) for one in pending))

    assert asyncio.run(main()) == [False, False, False]


def test_no_call_is_sent_once_the_money_is_out() -> None:
    script, commit = Script(), MemoryCommit(ReservationStatus.REFUSED, ReservationStatus.REFUSED)
    assert run(script, commit)
    assert script.asked == []
    assert commit.results[0].status is ResultStatus.BUDGET_EXHAUSTED


def test_a_cheaper_fallback_answers_when_the_chosen_model_is_out_of_reach() -> None:
    script, commit = Script(), MemoryCommit(ReservationStatus.REFUSED)
    assert run(script, commit, [LARGE, SMALL])
    assert commit.results[0].model == "small"


def test_a_cost_cap_counts_the_worst_case_and_what_was_spent() -> None:
    script, commit = Script(), MemoryCommit()
    cap = SLA(max_cost_usd=Decimal("0.001"))
    assert run(script, commit, sla=cap, cost_usd=Decimal("0.00099"))
    assert script.asked == []
    assert commit.results[0].error_code == "max_cost_exceeded"


def test_no_call_starts_after_the_deadline() -> None:
    script, commit = Script(), MemoryCommit()
    past = SLA(deadline=datetime.now(UTC) - timedelta(seconds=1))
    assert run(script, commit, sla=past)
    assert script.asked == []
    assert commit.results[0].status is ResultStatus.EXPIRED


def test_a_call_waits_no_longer_than_the_latency_limit_or_the_time_left() -> None:
    script = Script()
    run(script, MemoryCommit(), sla=SLA(max_latency_s=3.0))
    soon = datetime.now(UTC) + timedelta(seconds=2)
    run(script, MemoryCommit(), sla=SLA(max_latency_s=3.0, deadline=soon))
    first, second = script.timeouts_s
    assert first == 3.0
    assert second is not None
    assert 0 < second <= 2


def test_a_drained_job_stays_pending() -> None:
    script, commit = Script(), MemoryCommit()
    assert not run(script, commit, closing=True)
    assert (script.asked, commit.results) == ([], [])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RequestRejectedError("no"), DeviationReason.FAILED),
        (ContextLengthError("too long"), DeviationReason.CONTEXT_LENGTH),
        (ContentFilterError("refused"), DeviationReason.CONTENT_FILTER),
    ],
)
def test_an_answer_of_another_model_than_planned_says_why(
    error: EndpointError, reason: DeviationReason
) -> None:
    commit = MemoryCommit()
    run(Script(error), commit)
    (result,) = commit.results
    assert (result.model, result.reason) == ("large", reason)
    assert (result.expected_quality, result.expected_cost_usd) == (0.9, Decimal("0.001"))


def test_the_reason_is_that_of_the_planned_model_and_not_of_the_last_one() -> None:
    commit = MemoryCommit(ReservationStatus.REFUSED)
    run(Script(RequestRejectedError("no")), commit, [LARGE, candidate("other"), SMALL])
    assert (commit.results[0].model, commit.results[0].reason) == ("small", DeviationReason.BUDGET)


def test_an_answer_of_the_planned_model_has_no_reason() -> None:
    commit = MemoryCommit()
    run(Script(), commit)
    assert (commit.results[0].reason, commit.results[0].expected_quality) == (None, None)


def test_a_call_whose_bound_was_raised_while_it_waited_reserves_anew() -> None:
    script = Script()

    class Surprise(OpenPermit):
        async def start(self) -> None:
            script.behaviour.note_usage(SMALL, BODY, Usage(20, 500))  # of another call

    script.permit = Surprise
    commit = MemoryCommit()
    assert run(script, commit)
    assert commit.released == [(7, 1)]
    first, second = commit.reserved
    assert second.worst_case_usd - first.worst_case_usd == SMALL.cost_usd(0, 490)
    assert (second.attempt_no, script.asked) == (1, ["small"])


def test_a_limit_that_the_endpoint_does_not_obey_is_not_lowered() -> None:
    deaf = SMALL.endpoint.model_copy(update={"completion_limit_field": LimitField.NONE})
    body = {"messages": BODY["messages"]}
    for endpoint, lowered in ((SMALL.endpoint, True), (deaf, False)):
        model = SMALL.model_copy(update={"endpoint": endpoint})
        job = Job(7, "seven", body, SLA())
        state = JobState.of(PendingJob(job, "small", (0.5,), (2.0,), 0, Decimal(0)))
        state.ask(Candidate(model, 0.5, Decimal("0.001"), 100, model.max_completion_tokens))
        assert state.raise_limit()
        needed_usd = bound_cost_usd(state.pending.job.body, model)
        assert state.lower_limit(model, needed_usd - Decimal("0.0001")) is lowered


def test_a_refused_limit_that_raises_the_bound_uses_up_no_attempt() -> None:
    class Refusing(Script):
        async def complete(
            self, model: CandidateModel, body: dict[str, Any], *, timeout_s: float | None = None
        ) -> Completion:
            if model.endpoint.completion_limit_field is not LimitField.NONE:
                known = self.behaviour.apply(SMALL)
                self.behaviour.note_refusal(known)
                self.steps.append(LimitFieldRefusedError("max_tokens is not supported"))
            return await super().complete(model, body, timeout_s=timeout_s)

    script, commit = Refusing(), MemoryCommit()
    assert run(script, commit)
    assert [one.worst_case_usd for one in commit.reserved][-1] > commit.reserved[0].worst_case_usd
    assert commit.results[0].status is ResultStatus.SUCCEEDED
    assert script.asked == ["small"] * 3
