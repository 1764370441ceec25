"""Chooses a model for each job of a batch: the most quality for the money, with proof."""

from routoo.selector.problem import Capacity, Problem, match_model
from routoo.selector.solution import Solution, Status
from routoo.selector.solve import solve

__all__ = ["Capacity", "Problem", "Solution", "Status", "match_model", "solve"]
