"""Solves small problems exactly: mixed-integer programming by HiGHS.

Source: Huangfu and Hall, Parallelizing the dual revised simplex method, Mathematical Programming
Computation 10 (2018), through scipy.optimize.milp.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int32, Int64
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from routoo.errors import InputError
from routoo.selector.problem import Problem
from routoo.selector.solution import Proof, Solution, SolveStatus, conclude, infeasible
from routoo.selector.solvers.dual_ascent import advise_limits_to_relax, keeps_limits
from routoo.selector.solvers.programme import Programme

MAX_PAIRS = 500_000
"""Beyond this many allowed pairs HiGHS takes hours."""
TRIES = 6
"""HiGHS keeps limits up to a tolerance; they are drawn in this often until they hold exactly."""
FIRST_RETREAT = 1e-9
_TAKEN = 0.5
"""Pairs above this are taken: they are 0 or 1 but for the solver's tolerance."""


@dataclass(frozen=True, slots=True)
class _Model:
    """Allowed pairs of jobs that have any, as HiGHS sees them."""

    job: Int64[np.ndarray, " pairs"]
    column: Int64[np.ndarray, " pairs"]
    gain: Float64[np.ndarray, " pairs"]
    draw: Float64[np.ndarray, "resources pairs"]
    jobs: int


def solve_milp(problem: Problem, *, allow_partial: bool = False) -> Solution:
    """Solve a small problem exactly.

    Args:
        problem: The problem, with any limits.
        allow_partial: Where not all jobs can be served within the limits, leave some without a
            model.

    Returns:
        An optimal choice, or status `infeasible`.

    Raises:
        InputError: The problem is too large for this solver.
    """
    solution = _solve(problem, Programme.of(problem))
    if allow_partial and not solution.feasible:
        partial = _solve(problem, Programme.of(problem, idle=True))
        return replace(partial, status=SolveStatus.INFEASIBLE, advice=solution.advice)
    return solution


def _solve(problem: Problem, programme: Programme) -> Solution:
    model = _model(programme)
    nobody = np.full(model.jobs, -1, dtype=np.int32)
    if len(model.job) == 0 and keeps_limits(programme, nobody):
        return conclude(problem, programme.table, nobody, Proof(None))
    bound: float | None = None
    retreat = 0.0
    for attempt in range(TRIES if len(model.job) else 0):
        taken, dual_bound = _highs(model, programme.targets - retreat)
        if taken is None:
            break
        bound = dual_bound if bound is None else bound
        choice = _read(model, taken)
        if keeps_limits(programme, choice):
            best = bound if programme.minimise_cost else -bound
            return conclude(problem, programme.table, choice, Proof(best))
        retreat = FIRST_RETREAT * 10.0**attempt
    return infeasible(problem, advise_limits_to_relax(problem, programme, proved=bound is None))


def _model(programme: Programme) -> _Model:
    jobs = programme.table.jobs
    block = programme.rows(np.arange(jobs))
    job, column = np.nonzero(np.isfinite(block.gain.T))
    if len(job) > MAX_PAIRS:
        raise InputError(
            f"milp takes at most {MAX_PAIRS} allowed pairs of job and model",
            value=len(job),
            remedy="Use the lagrangian solver, whose gap is smaller the more jobs there are",
        )
    return _Model(job, column, block.gain[column, job], block.draw[:, column, job], jobs)


def _highs(
    model: _Model, limits: Float64[np.ndarray, " resources"]
) -> tuple[Float64[np.ndarray, " pairs"] | None, float]:
    """Return which pairs are taken, None where no choice was found, and the dual bound."""
    pairs = np.arange(len(model.job))
    once = csr_array((np.ones(len(pairs)), (model.job, pairs)), shape=(model.jobs, len(pairs)))
    served = np.bincount(model.job, minlength=model.jobs) > 0
    rules = [LinearConstraint(once, served, served)]
    if len(model.draw):
        rules.append(LinearConstraint(model.draw, -np.inf, limits))
    answer = milp(
        -model.gain,
        constraints=rules,
        integrality=np.ones(len(pairs)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    bound = answer.get("mip_dual_bound")
    return answer.x, math.nan if bound is None else float(bound)


def _read(model: _Model, taken: Float64[np.ndarray, " pairs"]) -> Int32[np.ndarray, " jobs"]:
    choice = np.full(model.jobs, -1, dtype=np.int32)
    picked = np.flatnonzero(taken > _TAKEN)
    choice[model.job[picked]] = model.column[picked]
    return choice
