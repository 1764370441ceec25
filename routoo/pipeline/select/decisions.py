"""Turns a solution into a decision for each job: a model, or a result without an answer."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from routoo.domain.completion import Result
from routoo.domain.job import ResultStatus
from routoo.domain.pool import Pool
from routoo.domain.prediction import Assignment
from routoo.pipeline.select.matrix import BatchMatrix
from routoo.pipeline.select.probes import ProbedJobs, no_probed_jobs

_SLICE_ROWS = 10_000
_NO_MONEY = "the budget does not cover a call for this job"


@dataclass(frozen=True, slots=True)
class Decisions:
    """What is decided for each job, and what is expected of it."""

    column: Int[np.ndarray, " jobs"]
    """Position in the pool of the model that is asked first; -1 where none is."""
    quality: Float32[np.ndarray, " jobs"]
    """Expected quality of the answer that is kept; 0 where no model is asked."""
    cost_usd: Float64[np.ndarray, " jobs"]
    """Expected cost of all calls, in USD."""
    probed: ProbedJobs
    """Those whose answer is judged."""

    @classmethod
    def of(
        cls, matrix: BatchMatrix, column: Int[np.ndarray, " jobs"], probed: ProbedJobs | None = None
    ) -> Self:
        """Return the decisions of a choice of models, some of them probes."""
        served = np.flatnonzero(column >= 0)
        quality = np.zeros(len(column), np.float32)
        cost_usd = np.zeros(len(column))
        quality[served] = matrix.quality[served, column[served]]
        cost_usd[served] = matrix.cost_usd[served, column[served]]
        if probed is None:
            probed = no_probed_jobs(matrix.quality.shape[1])
        quality[probed.jobs], cost_usd[probed.jobs] = probed.quality, probed.cost_usd
        return cls(column, quality, cost_usd, probed)

    @property
    def is_probe(self) -> Bool[np.ndarray, " jobs"]:
        """Whether a job asks a probe first."""
        probe = np.zeros(len(self.column), np.bool_)
        probe[self.probed.jobs] = True
        return probe

    @property
    def escalation_chance(self) -> Float64[np.ndarray, " jobs"]:
        """Probability that another model is asked after the first."""
        chance = np.zeros(len(self.column))
        chance[self.probed.jobs] = self.probed.escalation_chance
        return chance


def assign(
    pool: Pool,
    decisions: Decisions,
    rows: Int[np.ndarray, " some"],
    jobs: Int[np.ndarray, " some"] | None = None,
) -> Iterator[Assignment]:
    """Yield the assignment of each job to its model.

    Args:
        pool: The candidate models.
        decisions: What was decided; each row has a model.
        rows: Rows of the decisions.
        jobs: Numbers of those jobs; None where they are the rows.
    """
    numbers = rows if jobs is None else jobs
    probes, chances = decisions.is_probe, decisions.escalation_chance
    # Slice by slice: as Python's objects, a million jobs take 200 MB.
    for first in range(0, len(rows), _SLICE_ROWS):
        some = rows[first : first + _SLICE_ROWS]
        columns, quality = decisions.column[some].tolist(), decisions.quality[some].tolist()
        cost_usd, probe = decisions.cost_usd[some].tolist(), probes[some].tolist()
        fields = zip(
            numbers[first : first + _SLICE_ROWS].tolist(),
            *(columns, quality, cost_usd, probe, chances[some].tolist()),
            strict=True,
        )
        for job_no, column, expected, usd, is_probe, escalated in fields:
            name, cost = pool.models[column].name, Decimal(f"{usd:.12f}")
            yield Assignment(job_no, name, expected, cost, is_probe, escalated)


def unserved_results(jobs: Iterable[int], matrix: BatchMatrix, advice: str) -> Iterator[Result]:
    """Yield the results of jobs that no model may answer, or that the budget can't pay for.

    Args:
        jobs: Numbers of the jobs.
        matrix: The whole batch, which says why a job has no eligible model.
        advice: The solution's advice; it becomes the message of jobs that the budget can't pay for.
    """
    for job_no in sorted(jobs):
        reason = matrix.ineligible.get(job_no)
        if reason is not None:
            yield _unserved(job_no, ResultStatus.FAILED, "no_eligible_model", reason)
        else:
            code = ResultStatus.BUDGET_EXHAUSTED.value
            yield _unserved(job_no, ResultStatus.BUDGET_EXHAUSTED, code, advice or _NO_MONEY)


def _unserved(job_no: int, status: ResultStatus, code: str, message: str) -> Result:
    return Result(job_no, status, Decimal(0), 0, error_code=code, error_message=message)
