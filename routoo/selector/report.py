"""From a choice and its proof to a solution with a status that advises."""

from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction

import numpy as np
from jaxtyping import Int

from routoo.selector.accounts import exact_sum
from routoo.selector.option_table import Table
from routoo.selector.problem import Problem
from routoo.selector.solution import OPTIMAL_GAP, Solution, Status

ROUNDING = 1e-13
"""Relative room for rounding that a bound computed in floats is given."""
SHOWN_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Proof:
    """What a solver knows about its choice beside the choice."""

    bound: float | None
    """Best objective that is possible; None where the choice is known to reach it."""
    price_per_usd: float = 0.0
    """Quality per USD at which the path was left."""
    binding: bool = True
    """Whether a limit kept some job from its best model."""
    prices: dict[str, float] = field(default_factory=dict)
    """Quality per unit of each capacity."""


def conclude(
    problem: Problem, table: Table, choice: Int[np.ndarray, " jobs"], proof: Proof
) -> Solution:
    """Return the solution of a choice that keeps every limit."""
    qualities, costs = table.pick(choice)
    quality, cost = float(qualities.sum()), float(exact_sum(costs))
    minimise = problem.min_mean_quality is not None
    value = cost if minimise else quality - problem.floor_price_per_usd * cost
    bound = value if proof.bound is None else _loosen(table, proof.bound, value, minimise=minimise)
    gap = abs(bound - value) / max(abs(value), 1e-300) if bound != value else 0.0
    status = Status.OPTIMAL if gap <= OPTIMAL_GAP else Status.WITHIN_GAP
    if not proof.binding:
        status = Status.UNCONSTRAINED
    column = np.where(choice < table.models, choice, -1).astype(np.int32)
    return Solution(
        choice=column,
        quality=quality,
        cost_usd=cost,
        value=value,
        bound=bound,
        shadow_price_per_usd=proof.price_per_usd if proof.binding else 0.0,
        status=status,
        shadow_prices=proof.prices,
        unaffordable=servable_jobs(problem) - int(np.count_nonzero(column >= 0)),
    )


def servable_jobs(problem: Problem) -> int:
    """Return how many jobs have an allowed model."""
    if problem.allowed is None:
        return problem.jobs
    return int(np.count_nonzero(problem.allowed.any(axis=1)))


def infeasible(problem: Problem, advice: str) -> Solution:
    """Return a solution that serves nobody and says what to relax."""
    worst = np.inf if problem.min_mean_quality is not None else -np.inf
    return Solution(
        choice=np.full(problem.jobs, -1, dtype=np.int32),
        quality=0.0,
        cost_usd=0.0,
        value=worst,
        bound=worst,
        shadow_price_per_usd=0.0,
        status=Status.INFEASIBLE,
        advice=advice,
        unaffordable=servable_jobs(problem),
    )


def advise_budget(problem: Problem, least_usd: Fraction, why: str) -> str:
    """Say which budget would do, rounded up so that it really does."""
    missing = _up(least_usd - Fraction(problem.budget_usd or 0))
    return (
        f"A budget of {problem.budget_usd} USD is too small: {why} costs {_up(least_usd)} USD. "
        f"Raise the budget by {missing} USD or relax the jobs' limits."
    )


def advise_limits(
    problem: Problem, overdrawn: dict[str, tuple[Fraction, Fraction]], *, proved: bool
) -> str:
    """Say which limits stand in the way together, and what would have kept the best try.

    Args:
        problem: The problem.
        overdrawn: Limit and excess of each limit that the best try breaks, by name.
        proved: Whether no choice can keep the limits; else none was found.
    """
    relax = []
    for name, (limit, excess) in overdrawn.items():
        if name == "min_mean_quality":
            relax.append(f"lower {name} by {_up(excess / max(1, servable_jobs(problem)))}")
        else:
            relax.append(f"raise {name} from {float(limit):g} by {_up(excess)}")
    verdict = "The limits can't all hold" if proved else "No choice was found that keeps all limits"
    exact = "" if proved else '; for few jobs solver="milp" decides it exactly'
    return f"{verdict}: {', and '.join(relax)}, or relax the jobs' limits{exact}."


def _up(amount: Fraction) -> str:
    """Return a decimal of six significant digits that is not smaller."""
    context = Context(prec=SHOWN_DIGITS, rounding=ROUND_CEILING)
    return f"{context.divide(Decimal(amount.numerator), Decimal(amount.denominator)):f}"


def _loosen(table: Table, bound: float, value: float, *, minimise: bool) -> float:
    """Give a bound room for rounding; where qualities are whole numbers, their sum is one too."""
    room = ROUNDING * (abs(bound) + abs(value))
    if minimise:
        return min(bound - room, value) if bound <= value else value
    if _whole(table):
        bound = float(np.floor(bound + 1e-9))
        room = 0.0
    return max(bound + room, value)


def _whole(table: Table) -> bool:
    """Return whether every quality is a whole number, as with graded answers right or wrong."""
    # Real estimates are not whole, which a few rows show.
    return all(_whole_rows(table.rows(slice(0, stop))) for stop in (64, table.jobs))


def _whole_rows(table: Table) -> bool:
    whole = table.quality == np.rint(table.quality)
    return bool((whole if table.allowed is None else whole | ~table.allowed).all())
