"""Results of jobs that the selection leaves without a model."""

from collections.abc import Iterable, Iterator
from decimal import Decimal

from routoo.domain.completion import Result
from routoo.domain.job import ResultStatus
from routoo.pipeline.select.matrix import BatchMatrix

_NO_MONEY = "the budget does not cover a call for this job"


def refusals(jobs: Iterable[int], matrix: BatchMatrix, advice: str) -> Iterator[Result]:
    """Yield how jobs end that no model may answer, or that the budget can't pay for.

    Args:
        jobs: Their numbers.
        matrix: The batch, which knows what stands against a job.
        advice: What the solution advises.
    """
    for job_no in sorted(jobs):
        misfit = matrix.misfits.get(job_no)
        if misfit is not None:
            yield _refusal(job_no, ResultStatus.FAILED, "no_eligible_model", misfit)
        else:
            code = ResultStatus.BUDGET_EXHAUSTED.value
            yield _refusal(job_no, ResultStatus.BUDGET_EXHAUSTED, code, advice or _NO_MONEY)


def _refusal(job_no: int, status: ResultStatus, code: str, message: str) -> Result:
    return Result(job_no, status, Decimal(0), 0, error_code=code, error_message=message)
