"""Accounts for the calls of a job: costs, answers that are kept, and the result to record."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Self

from routoo.domain.absence import Absence, AbsenceReason
from routoo.domain.completion import (
    AnswerDecision,
    Completion,
    DeviationReason,
    KeptAnswer,
    Result,
)
from routoo.domain.job import PendingJob, ResultStatus
from routoo.domain.pool import BATCH_SUFFIX, TOKENS_PER_MTOK, CandidateModel
from routoo.domain.prompt import bound_cost_usd, choice_count
from routoo.domain.validators import NO_RULES, Validators, validators_of
from routoo.errors import (
    ContentFilterError,
    ContextLengthError,
    EndpointError,
    InvalidAnswerError,
    TruncatedAnswerError,
)
from routoo.pipeline.dispatch.fallback import Candidate


@dataclass(slots=True)
class KeptAnswers:
    """The kept answers of one job, and how they break its rules."""

    answers: list[KeptAnswer] = field(default_factory=list)
    """In the order of their calls."""
    undecided: KeptAnswer | None = None
    """The one that came last, until it is decided about."""
    better: KeptAnswer | None = None
    """Of two that were judged together, the one that is likelier to be good."""
    _faults: dict[int, str] = field(default_factory=dict)
    """By the number of the call."""

    def add(self, kept: KeptAnswer) -> None:
        """Keep an answer until it is decided about."""
        self.answers.append(kept)
        self.undecided = kept

    def forget_decisions(self) -> None:
        """Go back to where no answer was decided about."""
        self._faults, self.undecided, self.better = {}, None, None

    def note_fault(self, kept: KeptAnswer, fault: str) -> None:
        """Record how an answer breaks a rule."""
        self._faults[kept.attempt.attempt_no] = fault

    def fault_of(self, kept: KeptAnswer) -> str | None:
        """Return how an answer breaks a rule, None where it is not known to."""
        return self._faults.get(kept.attempt.attempt_no)

    def faults_of(self, model: str) -> int:
        """Return how many answers of a model break a rule."""
        return sum(
            one.attempt.model == model and self.fault_of(one) is not None for one in self.answers
        )

    @property
    def has_good(self) -> bool:
        """Whether an answer could be the result: it keeps the rules."""
        return any(self.fault_of(one) is None for one in self.answers)

    def judged_before(self, kept: KeptAnswer) -> KeptAnswer | None:
        """Return the earlier good answer of another probe; None without any."""
        for one in self.answers:
            if one is kept:
                break
            if one.attempt.probe and self.fault_of(one) is None:
                return one if one.attempt.model != kept.attempt.model else None
        return None

    def best(self, candidates: Sequence[Candidate]) -> KeptAnswer | None:
        """Return the answer that is the result if no better one comes; None without any.

        One that keeps the rules comes first, then one that says something, then the better of two
        that were judged together, then that of the model of which most is expected.
        """
        quality = {one.model.name: one.expected_quality or 0.0 for one in candidates}
        return max(
            self.answers,
            key=lambda kept: (
                self.fault_of(kept) is None,
                bool(kept.completion.answer.strip()),
                kept is self.better,
                quality.get(kept.attempt.model, 0.0),
                kept.attempt.attempt_no,
            ),
            default=None,
        )


_CLEARLY_MORE = 1.25
"""A limit is raised by at least a quarter, or the answer would probably be cut again."""
_REASONS = {
    "endpoint_closed": DeviationReason.UNAVAILABLE,
    "endpoint_unavailable": DeviationReason.UNAVAILABLE,
    "endpoint_timeout": DeviationReason.UNAVAILABLE,
    "rate_limited": DeviationReason.RATE_LIMITED,
    "endpoint_denied": DeviationReason.DENIED,
    "answer_cut": DeviationReason.TRUNCATED,
    "truncated_answer": DeviationReason.TRUNCATED,
    "max_cost_exceeded": DeviationReason.COST_CAP,
    str(ResultStatus.BUDGET_EXHAUSTED): DeviationReason.BUDGET,
    ContentFilterError.code: DeviationReason.CONTENT_FILTER,
    ContextLengthError.code: DeviationReason.CONTEXT_LENGTH,
    TruncatedAnswerError.code: DeviationReason.TRUNCATED,
    InvalidAnswerError.code: DeviationReason.INVALID,
}
"""Why a model was left, by the error with which it was."""

_ABSENT = {
    AbsenceReason.UNAVAILABLE: "endpoint_closed",
    AbsenceReason.RATE_LIMITED: "rate_limited",
    AbsenceReason.DENIED: "endpoint_denied",
}
"""Codes of the errors that stand for the absence of a model."""


@dataclass(slots=True)
class JobState:
    """What happened to a job so far: its calls, their cost, and the last error."""

    given: PendingJob
    """The job as its owner gave it."""
    pending: PendingJob
    """The job as it is asked: its request may name a limit of tokens that we set."""
    attempts: int
    """Number of calls that were sent."""
    cost_usd: Decimal
    """Of all calls that ended, in USD."""
    model: str | None = None
    """Name of the model that was asked last."""
    error_code: str | None = None
    error_message: str | None = None
    asked: Candidate | None = None
    """The candidate that is asked, or was asked last."""
    reason: DeviationReason | None = None
    """Why the model that was chosen first was left; None while it was not."""
    limit_tokens: int | None = None
    """Limit of tokens that we set; None where the request names one, or the pool's holds."""
    cut_tokens: int = 0
    """The highest such limit that cut an answer of the model that is asked."""
    outgrown_tokens: int = 0
    """The largest context window that proved too small, in tokens."""
    rules: Validators = NO_RULES
    """Rules that the answer must keep."""
    candidates: Sequence[Candidate] = ()
    """The models to ask, in their order; a judgement changes them."""
    kept: KeptAnswers = field(default_factory=KeptAnswers)
    """Its answers that are paid and not, or not yet, the result."""
    offered: Sequence[Candidate] = ()
    """The models that it may be asked of, by what the prompt alone tells."""
    escalated: bool = False
    """Whether the models that are asked now are asked after another one's answer."""
    compares: str | None = None
    """Name of the model whose answer is to be compared with a probe's; None for none."""
    unpaid: tuple[str, Decimal] | None = None
    """The cheapest model that the money did not cover, and its call's worst case in USD."""

    @classmethod
    def of(cls, pending: PendingJob, kept: Sequence[KeptAnswer] = ()) -> Self:
        """Return the state of a job, which goes on where an earlier dispatch of the job ended."""
        state = cls(pending, pending, pending.attempts, pending.cost_usd)
        state.rules = validators_of(pending.job.body, pending.job.sla.validators)
        state.kept.answers.extend(kept)
        if pending.model.endswith(BATCH_SUFFIX):  # its channel takes no single calls
            state.reason = DeviationReason.BATCH_CHANNEL
        return state

    @property
    def job_no(self) -> int:
        """Number of the job in its batch."""
        return self.pending.job.job_no

    @property
    def is_filtered(self) -> bool:
        """Whether the last error is the refusal of a content filter."""
        return self.error_code == ContentFilterError.code

    def exceeds_cap(self, more_usd: Decimal) -> bool:
        """Return whether the job's own limit doesn't cover more money than it has cost."""
        limit_usd = self.pending.job.sla.max_cost_usd
        return limit_usd is not None and self.cost_usd + more_usd > limit_usd

    def reassign(self, pending: PendingJob) -> None:
        """Go on with a job to which a revision of the plan gave another model."""
        if self.error_code is not None and pending.model != self.given.model:
            self.note_departure()
        self.given = self.pending = pending

    def ask(self, candidate: Candidate) -> None:
        """Turn to a candidate, with the limit of tokens that its answer is first asked for with."""
        self.asked, self.cut_tokens = candidate, 0
        self._set_limit(candidate.limit_tokens)

    def _set_limit(self, tokens: int | None) -> None:
        self.limit_tokens, job = tokens, self.given.job
        if tokens is None:
            self.pending = self.given
        else:
            limited = replace(job, body={**job.body, "max_tokens": tokens})
            self.pending = replace(self.given, job=limited)

    @property
    def most_tokens(self) -> int | None:
        """The limit to which that of the present call may be raised; None where it may not."""
        most = self.asked.most_tokens if self.asked else None
        raisable = most is not None and self.limit_tokens is not None and self.limit_tokens < most
        return most if raisable else None

    def raise_limit(self) -> bool:
        """Raise a limit that cut an answer to the pool's; return whether it was raised."""
        most = self.most_tokens
        if most is None:
            return False
        self.cut_tokens = max(self.cut_tokens, self.limit_tokens or 0)
        self._set_limit(most)
        return True

    def lower_limit(self, model: CandidateModel, free_usd: Decimal) -> bool:
        """Lower a limit that was raised so far that the money covers a call with it.

        Args:
            model: The model to ask, with what is known of its endpoint.
            free_usd: The money that may be reserved, in USD.

        Returns:
            Whether it was lowered; not below what is clearly more than the limit that cut.
        """
        body, price = self.pending.job.body, model.price_usd_per_mtok.completion
        if self.limit_tokens is None or not self.cut_tokens or not price:
            return False
        if not model.obeys_limits:  # a lower limit makes no call cheaper
            return False
        beyond_usd = bound_cost_usd(body, model) - free_usd
        tokens = beyond_usd * TOKENS_PER_MTOK / (price * choice_count(body))
        affordable = self.limit_tokens - math.ceil(tokens)
        if not self.cut_tokens * _CLEARLY_MORE <= affordable < self.limit_tokens:
            return False
        self._set_limit(affordable)
        return True

    @property
    def asks_probe(self) -> bool:
        """Whether the answer of the model that is asked will be judged."""
        asked = None if self.asked is None else self.asked.model.name
        is_first = asked == self.given.model and not self.escalated
        return self.given.probe and asked is not None and (is_first or asked == self.compares)

    def note_fault(self, kept: KeptAnswer, fault: str) -> None:
        """Keep how an answer breaks a rule; the last such error becomes the job's own."""
        self.kept.note_fault(kept, fault)
        self.model, self.error_code = kept.attempt.model, InvalidAnswerError.code
        self.error_message = f"the answer of {kept.attempt.model} breaks a rule: {fault}"

    def note_error(self, model: CandidateModel, code: str, message: str) -> None:
        """Keep why a model gave no answer; the last such error becomes the job's own."""
        self.model, self.error_code, self.error_message = model.name, code, message

    def note_unpaid(self, model: CandidateModel, worst_case_usd: Decimal) -> tuple[str, Decimal]:
        """Keep that the money covers no call to a model; return the cheapest such one so far."""
        if self.unpaid is None or worst_case_usd < self.unpaid[1]:
            self.unpaid = model.name, worst_case_usd
        return self.unpaid

    def note_departure(self) -> None:
        """Keep why the model that is asked is left; the first such reason stands."""
        if self.reason is None:
            self.reason = _REASONS.get(self.error_code or "", DeviationReason.FAILED)

    def note_absence(self, model: CandidateModel, absence: Absence) -> None:
        """Note that a model takes no calls, as the error that stands for that."""
        self.note_error(model, _ABSENT[absence.reason], f"{model.name}: {absence.message}")

    def add_failure(self, model: CandidateModel, cost_usd: Decimal, error: EndpointError) -> None:
        """Count a call that ended without an answer that can be used."""
        self.cost_usd += cost_usd
        self.note_error(model, error.code, str(error))
        if isinstance(error, ContextLengthError):
            self.outgrown_tokens = max(self.outgrown_tokens, model.context_window_tokens)

    def add_success(self, model: CandidateModel, cost_usd: Decimal) -> None:
        """Count a call that was answered."""
        self.cost_usd += cost_usd
        self.model = model.name

    def success(self, completion: Completion) -> Result:
        """Return the result of the job if the last model's answer is taken."""
        deviates = self.model != self.given.planned
        # A probe's job that asks another model does what its plan says.
        reason = self.reason if self.escalated else self.reason or DeviationReason.REPLAN
        return Result(
            job_no=self.job_no,
            status=ResultStatus.SUCCEEDED,
            cost_usd=self.cost_usd,
            attempts=self.attempts,
            model=self.model,
            completion=completion,
            reason=reason if deviates else None,
            expected_quality=self.asked.expected_quality if deviates and self.asked else None,
            expected_cost_usd=self.asked.expected_cost_usd if deviates and self.asked else None,
            decision=AnswerDecision.ESCALATED if self.escalated else AnswerDecision.DIRECT,
        )

    def accepted(self, kept: KeptAnswer, expected_quality: float | None = None) -> Result:
        """Return the result of the job if a kept answer is taken.

        Args:
            kept: An answer that keeps the rules.
            expected_quality: Probability that it is good, where it was judged.
        """
        self.model = kept.attempt.model
        result = self.success(kept.completion)
        if not kept.attempt.probe:
            return result
        return replace(
            result,
            decision=AnswerDecision.ACCEPTED,
            expected_quality=expected_quality,
            expected_cost_usd=None,
        )

    def failure(self) -> Result:
        """Return the result of the job if no model gives an answer that is better than kept ones.

        That is the best kept answer where there is one; it counts as failed if it breaks a rule.
        """
        return self._from_kept(self._failure())

    def _from_kept(self, otherwise: Result) -> Result:
        """Return the result with the best kept answer, if there is one."""
        kept = self.kept.best(self.offered)
        if kept is None:
            return otherwise
        fault = self.kept.fault_of(kept)
        if fault is None:
            return replace(self.accepted(kept), decision=AnswerDecision.KEPT)
        status = ResultStatus.FAILED
        if otherwise.status is not ResultStatus.BUDGET_EXHAUSTED:
            status = otherwise.status
        message = f"no answer keeps the rules; {kept.attempt.model}'s is kept: {fault}"
        if otherwise.error_code != InvalidAnswerError.code:
            message = f"{message}; then {otherwise.error_message}"
        return replace(
            otherwise,
            status=status,
            model=kept.attempt.model,
            completion=kept.completion,
            decision=AnswerDecision.KEPT,
            error_code=InvalidAnswerError.code,
            error_message=message,
        )

    def _failure(self) -> Result:
        exhausted = self.error_code == ResultStatus.BUDGET_EXHAUSTED
        return Result(
            job_no=self.job_no,
            status=ResultStatus.BUDGET_EXHAUSTED if exhausted else ResultStatus.FAILED,
            cost_usd=self.cost_usd,
            attempts=self.attempts,
            model=self.model,
            error_code=self.error_code or "no_eligible_model",
            error_message=self.error_message or "no candidate model fits this job's limits",
        )

    def expiry(self) -> Result:
        """Return the result of the job if its deadline passes: the best kept answer, if any."""
        return self._from_kept(self._expiry())

    def cancellation(self) -> Result:
        """Return the result of the job if its batch is cancelled before a call for it starts."""
        return Result(
            job_no=self.job_no,
            status=ResultStatus.CANCELLED,
            cost_usd=self.cost_usd,
            attempts=self.attempts,
            error_code="cancelled",
            error_message="The batch was cancelled before this job was answered",
        )

    def _expiry(self) -> Result:
        return Result(
            job_no=self.job_no,
            status=ResultStatus.EXPIRED,
            cost_usd=self.cost_usd,
            attempts=self.attempts,
            error_code="expired",
            error_message=(
                f"the deadline {self.pending.job.sla.deadline} passed before an answer came"
            ),
        )
