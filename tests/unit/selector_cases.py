"""Small random selection problems and their exact answers by brute force."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st
from jaxtyping import Int

from routoo.selector import Problem

ROUND_NUMBERS = [0.0, 0.125, 0.25, 0.5, 1.0, 1.5, 3.0]
ROUGH_NUMBERS = [0.1, 0.2, 0.3, 1e-9, 1 / 3, 0.7, 1e-5, 2.675]


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    max_jobs: int = 5,
    max_models: int = 4,
    **limits: st.SearchStrategy[Any],
) -> Problem:
    """Draw a problem; limits are strategies by the name of the problem's field."""
    jobs, models = draw(st.integers(1, max_jobs)), draw(st.integers(1, max_models))
    numbers = draw(st.sampled_from([ROUND_NUMBERS, ROUGH_NUMBERS]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return Problem(
        np.array(draw(_table(st.floats(0, 1, width=16), jobs, models)), dtype=dtype),
        np.array(draw(_table(st.sampled_from(numbers), jobs, models)), dtype=dtype),
        np.array(draw(_table(st.sampled_from([True, True, True, False]), jobs, models))),
        **{name: draw(strategy) for name, strategy in limits.items()},
    )


def _table(
    numbers: st.SearchStrategy[Any], jobs: int, models: int
) -> st.SearchStrategy[list[list[Any]]]:
    row = st.lists(numbers, min_size=models, max_size=models)
    return st.lists(row, min_size=jobs, max_size=jobs)


def every_choice(problem: Problem) -> Iterator[tuple[tuple[int, ...], Fraction, Fraction]]:
    """Yield every complete choice with its exact quality and cost."""
    columns = [np.flatnonzero(row).tolist() or [-1] for row in problem.allowed]
    for choice in product(*columns):
        pairs = [(job, column) for job, column in enumerate(choice) if column >= 0]
        quality = sum((Fraction(float(problem.quality[pair])) for pair in pairs), Fraction(0))
        cost = sum((Fraction(float(problem.cost_usd[pair])) for pair in pairs), Fraction(0))
        yield choice, quality, cost


def exact_cost(problem: Problem, choice: Int[np.ndarray, " jobs"]) -> Fraction:
    """Return the cost of a choice in exact arithmetic."""
    return sum(
        (
            Fraction(float(problem.cost_usd[job, column]))
            for job, column in enumerate(choice.tolist())
            if column >= 0
        ),
        Fraction(0),
    )


def served(problem: Problem) -> int:
    """Return how many jobs have an allowed model."""
    return int(problem.allowed.any(axis=1).sum())
