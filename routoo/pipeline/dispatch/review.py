"""Reviews answers before they become results: by their job's rules, and probes' by the judge."""

from dataclasses import replace
from enum import Enum, auto

from routoo.domain.answer_checks import find_fault_aside
from routoo.domain.completion import AnswerDecision, AnswerJudgement, KeptAnswer
from routoo.domain.validators import Validators
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.pipeline.dispatch.job_state import JobState
from routoo.pipeline.dispatch.judging import ESCALATED, AnswerJudging


class Verdict(Enum):
    """What follows from an answer."""

    TAKEN = auto()
    """It is the job's result."""
    ASK_AGAIN = auto()
    """It broke a rule, and its model is asked once more."""
    LEAVE = auto()
    """It broke a rule: the next model is asked."""
    ESCALATE = auto()
    """It was judged; `JobState.candidates` are asked now, in their order."""


async def review(
    commit: GroupCommit, judging: AnswerJudging | None, state: JobState, kept: KeptAnswer
) -> Verdict:
    """Decide about an answer that is kept.

    Args:
        commit: Records what was decided, and the result if the answer is taken.
        judging: Judges probes' answers; without it each is as good as any.
        state: What happened to the job so far; is brought up to date.
        kept: The answer.

    Raises:
        StoreError: A flush failed, or another worker owns the shard.
    """
    state.kept.undecided = None
    fault = await _fault(state.rules, kept)
    if fault is not None:
        state.note_fault(kept, fault)
        if state.rules.repair and state.kept.faults_of(kept.attempt.model) == 1:
            return Verdict.ASK_AGAIN
    if kept.attempt.probe and judging is not None:
        return await _decide(commit, judging, state, kept)
    if fault is None:
        commit.record(state.accepted(kept))
        return Verdict.TAKEN
    number = kept.attempt
    commit.note(AnswerJudgement(number.job_no, number.attempt_no, ESCALATED, fault=fault))
    state.escalated = True
    return Verdict.LEAVE


async def _decide(
    commit: GroupCommit, judging: AnswerJudging, state: JobState, kept: KeptAnswer
) -> Verdict:
    """Decide about a probe's answer at the price of now."""
    fault = state.kept.fault_of(kept)
    first = state.kept.judged_before(kept)
    decision = await judging.decide(state.given, kept, state.offered, fault, first)
    commit.note(decision.judgement)
    state.compares = decision.compares
    state.kept.better = decision.taken if first is not None else None
    if decision.accepts:
        result = state.accepted(decision.taken, decision.quality)
        if decision.judgement.threshold is None:  # there was no other model to compare it with
            result = replace(result, decision=AnswerDecision.KEPT)
        commit.record(result)
        return Verdict.TAKEN
    state.escalated, state.candidates = True, decision.order
    return Verdict.ESCALATE


async def resume(
    commit: GroupCommit, judging: AnswerJudging | None, state: JobState
) -> Verdict | None:
    """Decide again about the answers that a job has already, as if they came now.

    Returns:
        What follows from the last one; None where there is none. The state's candidates are
        those that are left.
    """
    verdict = None
    state.kept.forget_decisions()
    state.escalated, state.compares = False, None
    for kept in state.kept.answers:
        verdict = await review(commit, judging, state, kept)
        if verdict is Verdict.TAKEN:
            break
        if verdict is Verdict.LEAVE:
            state.note_departure()
            state.candidates = [
                one for one in state.candidates if one.model.name != kept.attempt.model
            ]
    return verdict


async def _fault(rules: Validators, kept: KeptAnswer) -> str | None:
    """Return how an answer breaks its job's rules; None where it keeps them."""
    answer, reason = kept.completion.answer, kept.completion.finish_reason
    fault = await find_fault_aside(rules, answer, reason)
    return None if fault is None else f"{fault.rule}: {fault.message}"
