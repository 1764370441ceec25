"""Chooses a model for each job of a batch: the most quality for the money, with a bound on it."""

from routoo.selector.problem import Capacity, Problem, match_model
from routoo.selector.solution import Solution, SolveStatus
from routoo.selector.solvers import solve

__all__ = ["Capacity", "Problem", "Solution", "SolveStatus", "match_model", "solve"]
