"""Explains a job: why it got its model, what the others would have brought, and what happened."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int64
from psycopg import AsyncConnection

from routoo.domain.job import Job
from routoo.domain.prediction import Experience, experience_from_json
from routoo.errors import InputError
from routoo.pipeline.judges import load_judge
from routoo.pipeline.request_facts import RequestFacts
from routoo.pipeline.select.estimates import estimate_calls, most_usd
from routoo.pipeline.select.matrix import BatchMatrix, build_matrix, load_matrix
from routoo.pipeline.select.probes import PosedProblem
from routoo.pipeline.select.problem import known_probes, pose_problem
from routoo.selector.explain import Change, Explanation, explain
from routoo.store import assignments, jobs, predictions
from routoo.store.batches.records import BatchRecord
from routoo.store.job_history import JobHistory, load_job_history

_MOST_JOBS = 20_000
"""Of a larger batch, about so many jobs are read."""


@dataclass(frozen=True, slots=True)
class JobExplanation:
    """One job among its options: the candidate models in pool order, then probes that may pay."""

    job: Job
    explanation: Explanation
    """Its candidates' quality is what the selector sees: the sum over all jobs that the call
    serves, and a lower bound if the batch is cautious."""
    quality: tuple[float, ...]
    """Expected quality of each option: by the predictor, of a probe as far as judging may show."""
    quality_std: tuple[float, ...]
    """Standard deviation of that estimate."""
    latency_s: tuple[float | None, ...]
    """Typical latency of a call, in seconds; None where nothing is known."""
    worst_usd: tuple[float, ...]
    """Most that the option's calls can cost together, in USD: a probe's, and those after it."""
    serves: int
    """Number of identical jobs that the call answers, this one included."""
    history: JobHistory


async def explain_job(conn: AsyncConnection, batch: BatchRecord, custom_id: str) -> JobExplanation:
    """Explain one job's choice by the estimates of the batch's plan.

    The budget at which a choice changes depends on all jobs of the batch. Of more than 20,000 it is
    estimated by about as many of them, in even steps.

    Args:
        conn: A connection.
        batch: A batch that was selected.
        custom_id: The owner's key of the job.

    Raises:
        NotFoundError: The batch has no such job.
        InputError: The batch has no plan yet.
    """
    job, plan = await jobs.find(conn, batch.id, custom_id), _plan_of(batch)
    experience = experience_from_json(plan.get("experience"))
    read = await _read(conn, batch, job.job_no, experience)
    matrix, original, serves = read.matrix, read.original, read.serves
    history = await load_job_history(conn, batch.id, job.job_no)
    row = slice(read.row, read.row + 1)
    tokens = await predictions.load_completion_tokens(conn, batch.id, job.job_no)
    requests = RequestFacts.of([job])
    own = estimate_calls(requests, batch.pool, matrix.quality[row], tokens[None, :], experience)
    now = datetime.now(UTC)
    direct = pose_problem(batch, matrix, experience, now)
    known = known_probes(batch, matrix, direct, experience, now)
    posed = PosedProblem.of_plan(direct, known, batch.pool, plan)
    offered = _Offered.of(posed, original)
    price, chosen = float(plan["shadow_price_per_usd"]), _chosen(batch, posed, history)
    reasons = own.reasons[0][offered.first]
    found = explain(posed.problem, original, chosen, price, posed.names(batch.pool), reasons)
    shown = tuple(found.candidates[option] for option in offered.options)
    latency_s = own.latency_s[0][offered.first[offered.options]]
    return JobExplanation(
        job=job,
        explanation=replace(
            found,
            candidates=shown,
            with_more_money=read.scaled(found.with_more_money),
            with_less_money=read.scaled(found.with_less_money),
        ),
        quality=offered.quality(matrix, read.row, serves),
        quality_std=tuple(matrix.quality_std[read.row, offered.first[offered.options]].tolist()),
        latency_s=tuple(None if np.isnan(one) else one for one in latency_s.tolist()),
        worst_usd=offered.worst_usd(most_usd(requests, batch.pool)[0]),
        serves=serves,
        history=history,
    )


@dataclass(frozen=True, slots=True)
class _Read:
    """A batch, or some of its jobs, with the rows that concern one job."""

    matrix: BatchMatrix
    row: int
    """Of the job."""
    original: int
    """Row of the job whose call answers it."""
    serves: int
    """Number of jobs that this call answers."""
    step: int = 1
    """Number of jobs that each row stands for."""

    def scaled(self, change: Change | None) -> Change | None:
        """Return a change with the budget of the whole batch."""
        return change and replace(change, budget_usd=change.budget_usd * self.step)


async def _read(
    conn: AsyncConnection, batch: BatchRecord, job_no: int, experience: Experience
) -> _Read:
    if batch.job_count <= _MOST_JOBS:
        matrix = await load_matrix(conn, batch, experience)
        original, serves = _original(matrix, job_no)
        return _Read(matrix, job_no, original, serves)
    step = -(-batch.job_count // _MOST_JOBS)
    originals, _ = await assignments.duplicates_of(conn, batch.id, [job_no])
    original = originals.get(job_no, job_no)
    numbers = sorted({*range(0, batch.job_count, step), job_no, original})
    originals, counts = await assignments.duplicates_of(conn, batch.id, numbers)
    some = [number for number in numbers if number not in originals or number == job_no]
    predicted = await predictions.load_some(conn, batch.id, some, len(batch.pool.models))
    found = await jobs.load_some(conn, batch.id, some)
    judge = await load_judge(conn, batch)
    matrix = build_matrix(batch, found, predicted, experience, judge)
    weight = np.array([0 if no in originals else 1 + counts.get(no, 0) for no in some], np.float32)
    matrix = replace(matrix, weight=weight if originals or counts else None, duplicates=None)
    row, first = np.searchsorted(some, [job_no, original]).tolist()
    return _Read(matrix, row, first, 1 + counts.get(original, 0), step)


@dataclass(frozen=True, slots=True)
class _Offered:
    """The options of one job: all models, and the probes that may pay for it."""

    posed: PosedProblem
    original: int
    """The job whose call answers it."""
    options: Int64[np.ndarray, " offered"]
    """Columns of the problem."""
    first: Int64[np.ndarray, " options"]
    """Column of the model that each option of the problem asks first."""

    @classmethod
    def of(cls, posed: PosedProblem, original: int) -> Self:
        """Return the options of a job."""
        count = posed.problem.options
        models, allowed = posed.policies.models, posed.problem.allowed
        shown = np.arange(count) < models
        if allowed is not None:
            shown |= allowed[original]
        first = posed.policies.first(np.arange(count))
        return cls(posed, original, np.flatnonzero(shown), first)

    def quality(self, matrix: BatchMatrix, row: int, serves: int) -> tuple[float, ...]:
        """Return what each is expected to bring: of a probe, of the answer that is kept."""
        models = self.posed.policies.models
        direct = matrix.quality[row].tolist()
        probes = self.options[self.options >= models]
        kept = self.posed.problem.quality[self.original, probes] / max(serves, 1)
        return (*direct, *kept.tolist())

    def worst_usd(self, most_usd: Float[np.ndarray, " models"]) -> tuple[float, ...]:
        """Return the most that each can cost in all, by the most that a call to each model can."""
        models = self.posed.policies.models
        asked = most_usd[self.first[self.options]]
        after = [self._after_usd(most_usd, one) if one >= models else 0.0 for one in self.options]
        return tuple((asked + after).tolist())

    def _after_usd(self, most_usd: Float[np.ndarray, " models"], option: int) -> float:
        """Return the most that the calls after a probe can cost."""
        known, probe, job = self.posed.known, int(self.first[option]), np.array([self.original])
        if known is None:
            return 0.0
        third = np.where(known.follow(job, probe)[0], most_usd, 0.0)
        third[probe] = 0.0
        seconds = self.posed.policies.seconds.get(probe, ())
        if known.comparisons is not None:
            may = known.comparisons.may
            seconds = tuple(one for one in seconds if may(job, probe, one)[0])
        compared = [most_usd[one] + np.delete(third, one).max() for one in seconds]
        return float(max([third.max(), *compared]))


def _chosen(batch: BatchRecord, posed: PosedProblem, history: JobHistory) -> int:
    """Return the option that was chosen last; -1 where none was."""
    if not history.decisions:
        return -1
    last = history.decisions[-1]
    column = batch.pool.index(last.model)
    if last.probe and column in posed.policies.probe:
        return posed.policies.models + posed.policies.probe.index(column)
    return column


def _plan_of(batch: BatchRecord) -> dict[str, Any]:
    if batch.plan is None:
        raise InputError(
            f"the batch has no plan yet: it is {batch.status}",
            value=str(batch.id),
            remedy="Ask again when `routoo-producer status` shows it as selected",
        )
    return batch.plan


def _original(matrix: BatchMatrix, job_no: int) -> tuple[int, int]:
    """Return the job whose call answers a job, and how many jobs it answers."""
    if matrix.duplicates is None or matrix.weight is None:
        return job_no, 1
    original = int(matrix.duplicates.original[job_no])
    return original, int(matrix.weight[original])
