"""Solves selection problems: a module or package a solver, and the function that picks one."""

from collections.abc import Callable
from typing import Literal

from routoo.selector.problem import Problem
from routoo.selector.solution import Solution
from routoo.selector.solvers.dual_ascent import solve_dual_ascent
from routoo.selector.solvers.lagrangian.solver import solve_lagrangian

SolverName = Literal["lagrangian", "milp"]


def solve(
    problem: Problem, *, solver: SolverName = "lagrangian", allow_partial: bool = False
) -> Solution:
    """Choose a model for every job.

    Ties go to the lower cost, then to the model that comes first in the pool; the same problem
    always has the same answer.

    Args:
        problem: The jobs, their options and the limits of the batch.
        solver: `lagrangian` (any size), or `milp` (exact, for small problems; loads SciPy).
        allow_partial: Where the budget can't pay for the cheapest allowed choice of all jobs, serve
            those that bring the most quality within it and leave the others without a model (choice
            -1). The status stays `infeasible`. Without it nobody is served then.

    Returns:
        A choice within every limit with its bound, gap and shadow prices, or status `infeasible`
        with advice.
    """
    return _solver(problem, solver)(problem, allow_partial=allow_partial)


def _solver(problem: Problem, name: SolverName) -> Callable[..., Solution]:
    if name == "milp":
        # SciPy takes long to load, and the producer plans without this solver.
        from routoo.selector.solvers.milp import solve_milp

        return solve_milp
    return solve_dual_ascent if problem.capacities else solve_lagrangian
