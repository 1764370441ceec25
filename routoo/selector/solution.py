"""Makes solutions: the choice, how good it provably is, what to relax if limits can't hold.

Every solver ends here: `conclude` turns its choice and its proof into a `Solution`, `infeasible`
returns one that serves no job, with advice.
"""

import math
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Context, Decimal
from enum import StrEnum
from fractions import Fraction

import numpy as np
from jaxtyping import Int, Int32

from routoo.selector.problem import OptionTable, Problem, exact_sum

OPTIMAL_GAP = 1e-9
"""A relative gap that float rounding alone explains."""
ROUNDING = 1e-13
"""Relative room for rounding that a bound computed in floats is given."""
SHOWN_DIGITS = 6
"""Significant digits of amounts in advice."""


class SolveStatus(StrEnum):
    """Whether a solution keeps its problem's limits, and how good it is."""

    OPTIMAL = "optimal"
    """No choice within the limits is better."""
    WITHIN_GAP = "within_gap"
    """Within the limits; no choice is better by more than the reported gap."""
    UNCONSTRAINED = "unconstrained"
    """The limits don't bind: every job has its best model."""
    INFEASIBLE = "infeasible"
    """The limits can't all hold, or no choice was found that meets them; see the advice."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The choice for each job with its proof.

    The objective is the sum of quality (less cost divided by the willingness to pay, where one was
    given), or the cost where the problem asks for the least; `value` and `bound` are in its unit.
    """

    choice: Int32[np.ndarray, " jobs"]
    """Column of the model chosen; -1 where none is allowed, or none could be paid for."""
    quality: float
    """Sum of expected quality over the chosen pairs."""
    cost_usd: float
    """Sum of expected cost over the chosen pairs, in USD."""
    value: float
    """The objective reached."""
    bound: float
    """No choice within the limits has a better objective than this."""
    shadow_price_per_usd: float
    """Quality that one more dollar would buy; 0 where money doesn't bind."""
    status: SolveStatus
    advice: str = ""
    """What to relax and by how much, where the limits can't hold; else empty."""
    shadow_prices: dict[str, float] = field(default_factory=dict)
    """What one more unit of each capacity would add to the objective, by its name."""
    unaffordable: int = 0
    """Jobs left without a model although one is allowed."""

    @property
    def gap(self) -> float:
        """Relative distance of the objective from its bound; infinite without a choice."""
        if math.isinf(self.value):
            return math.inf
        distance = abs(self.bound - self.value)
        return 0.0 if distance == 0.0 else distance / max(abs(self.value), 1e-300)

    @property
    def served(self) -> int:
        """Jobs that have a model."""
        return int(np.count_nonzero(self.choice >= 0))

    @property
    def mean_quality(self) -> float:
        """Mean expected quality of the jobs that have a model; 0 where none has."""
        return self.quality / self.served if self.served else 0.0

    @property
    def feasible(self) -> bool:
        """Whether every limit holds."""
        return self.status is not SolveStatus.INFEASIBLE


@dataclass(frozen=True, slots=True)
class Proof:
    """A solver's knowledge of how good its choice is."""

    bound: float | None
    """Best objective that is possible; None where the choice is known to reach it."""
    price_per_usd: float = 0.0
    """Quality per USD at which the path was left."""
    binding: bool = True
    """Whether a limit kept some job from its best model."""
    prices: dict[str, float] = field(default_factory=dict)
    """Quality per unit of each capacity."""


def conclude(
    problem: Problem, table: OptionTable, choice: Int[np.ndarray, " jobs"], proof: Proof
) -> Solution:
    """Return the solution of a choice that keeps every limit."""
    qualities, costs = table.pick(choice)
    quality, cost = float(qualities.sum()), float(exact_sum(costs))
    minimise = problem.min_mean_quality is not None
    value = cost if minimise else quality - problem.floor_price_per_usd * cost
    bound = value if proof.bound is None else _loosen(table, proof.bound, value, minimise=minimise)
    gap = abs(bound - value) / max(abs(value), 1e-300) if bound != value else 0.0
    status = SolveStatus.OPTIMAL if gap <= OPTIMAL_GAP else SolveStatus.WITHIN_GAP
    status = status if proof.binding else SolveStatus.UNCONSTRAINED
    column = np.where(choice < table.options, choice, -1).astype(np.int32)
    return Solution(
        choice=column,
        quality=quality,
        cost_usd=cost,
        value=value,
        bound=bound,
        shadow_price_per_usd=proof.price_per_usd if proof.binding else 0.0,
        status=status,
        shadow_prices=proof.prices,
        unaffordable=problem.servable_jobs - int(np.count_nonzero(column >= 0)),
    )


def infeasible(problem: Problem, advice: str) -> Solution:
    """Return a solution without a model for any job, with advice on what to relax."""
    worst = np.inf if problem.min_mean_quality is not None else -np.inf
    return Solution(
        choice=np.full(problem.jobs, -1, dtype=np.int32),
        quality=0.0,
        cost_usd=0.0,
        value=worst,
        bound=worst,
        shadow_price_per_usd=0.0,
        status=SolveStatus.INFEASIBLE,
        advice=advice,
        unaffordable=problem.servable_jobs,
    )


def advise_budget(problem: Problem, least_usd: Fraction, why: str) -> str:
    """Return advice with a budget that is enough, rounded up."""
    missing = _up(least_usd - Fraction(problem.budget_usd or 0))
    return (
        f"A budget of {problem.budget_usd} USD is too small: {why} costs {_up(least_usd)} USD. "
        f"Raise the budget by {missing} USD or relax the jobs' limits."
    )


def advise_limits(
    problem: Problem, overdrawn: dict[str, tuple[Fraction, Fraction]], *, proved: bool
) -> str:
    """Return advice on which limits can't hold together, and by how much to relax them.

    Args:
        problem: The problem.
        overdrawn: Limit and excess of each limit that the best try breaks, by name.
        proved: Whether no choice can keep the limits; else none was found.
    """
    relax = []
    for name, (limit, excess) in overdrawn.items():
        if name == "min_mean_quality":
            relax.append(f"lower {name} by {_up(excess / max(1, problem.servable_jobs))}")
        else:
            relax.append(f"raise {name} from {float(limit):g} by {_up(excess)}")
    verdict = "The limits can't all hold" if proved else "No choice was found that keeps all limits"
    exact = "" if proved else '; for few jobs solver="milp" decides it exactly'
    return f"{verdict}: {', and '.join(relax)}, or relax the jobs' limits{exact}."


def _up(amount: Fraction) -> str:
    """Return a decimal of six significant digits that is not smaller."""
    context = Context(prec=SHOWN_DIGITS, rounding=ROUND_CEILING)
    return f"{context.divide(Decimal(amount.numerator), Decimal(amount.denominator)):f}"


def _loosen(table: OptionTable, bound: float, value: float, *, minimise: bool) -> float:
    """Give a bound room for rounding; where qualities are whole numbers, their sum is one too."""
    room = ROUNDING * (abs(bound) + abs(value))
    if minimise:
        return min(bound - room, value) if bound <= value else value
    if _whole(table):
        bound = float(np.floor(bound + 1e-9))
        room = 0.0
    return max(bound + room, value)


def _whole(table: OptionTable) -> bool:
    """Return whether every quality is a whole number, as with graded answers right or wrong."""
    # Real estimates are not whole, which a few rows show.
    return all(_whole_rows(table.rows(slice(0, stop))) for stop in (64, table.jobs))


def _whole_rows(table: OptionTable) -> bool:
    whole = table.quality == np.rint(table.quality)
    return bool((whole if table.allowed is None else whole | ~table.allowed).all())
