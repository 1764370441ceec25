"""Explains why a job got its model, and what would have to change for it to get another."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, UInt8

from routoo.selector.frontier import cost_at_price
from routoo.selector.job_limits import describe
from routoo.selector.problem import OptionTable, Problem
from routoo.selector.solvers.lagrangian.hull import climb
from routoo.selector.solvers.lagrangian.price_path import choose_at

_Move = tuple[int, float]
"""A column and the price, in quality per USD, at which the choice moves to it."""

Standing = Literal["chosen", "runner-up", "dominated", "possible", "ruled out"]


@dataclass(frozen=True, slots=True)
class ExplainedOption:
    """One option of a job, a model or a probe, beside the one that was chosen."""

    model: str
    quality: float
    cost_usd: float
    standing: Standing
    """Dominated: another allowed model, or a mix of two, is as good for less at every price."""
    reasons: tuple[str, ...] = ()
    """Why it is ruled out."""
    regret: float = 0.0
    """Quality, less cost at the batch's shadow price, that it falls short of the chosen one by."""


@dataclass(frozen=True, slots=True)
class Change:
    """A price, and roughly the budget, at which a job's choice would move to another model."""

    model: str
    shadow_price_per_usd: float
    """The choice changes when the price of a dollar passes this, in quality per USD."""
    budget_usd: float
    """Budget of the whole batch at about which that happens."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All candidates of a job and the nearest changes of its choice."""

    candidates: tuple[ExplainedOption, ...]
    """In pool order."""
    with_more_money: Change | None
    """None where the job already has the best model that money could buy it."""
    with_less_money: Change | None
    """None where the job has its cheapest sensible model."""


def explain(
    problem: Problem,
    job: int,
    chosen: int,
    shadow_price_per_usd: float,
    models: Sequence[str],
    reasons: UInt8[np.ndarray, " models"] | None = None,
) -> Explanation:
    """Explain one job's choice.

    Capacities are left out of account: the changes are those of the price of a dollar alone.

    Args:
        problem: The batch.
        job: Row of the job.
        chosen: Column of its model, -1 where it has none.
        shadow_price_per_usd: What the solution counts a dollar for, in quality.
        models: Names of the candidate models, in pool order.
        reasons: Codes of `job_limits.find_reasons` for this job, if there are.
    """
    table = OptionTable.of(problem).rows(slice(job, job + 1))
    quality, cost = (part[:, 0] for part in table.dense())
    hull = _Hull.of(table)
    standings = _standings(quality - shadow_price_per_usd * cost, chosen, hull)
    candidates = tuple(
        ExplainedOption(
            name,
            float(problem.quality[job, at]),
            float(problem.cost_usd[job, at]),
            standings[at][0],
            () if reasons is None else tuple(describe(int(reasons[at]))),
            standings[at][1],
        )
        for at, name in enumerate(models)
    )
    moves = hull.around(float(cost[chosen])) if chosen >= 0 else (None, None)
    return Explanation(candidates, *(_change(problem, models, move) for move in moves))


@dataclass(frozen=True, slots=True)
class _Hull:
    """A job's hull: columns of rising cost, and the price at which each is stepped up to."""

    columns: tuple[int, ...]
    costs: tuple[float, ...]
    prices: tuple[float, ...]

    @classmethod
    def of(cls, table: OptionTable) -> "_Hull":
        quality, cost = table.dense()
        if np.isneginf(quality).all():
            return cls((), (), ())
        start = choose_at(math.inf, quality, cost, np.empty_like(cost))
        steps = climb(table, start, 0.0, math.inf)
        columns = (int(start[0]), *steps.column.tolist())
        return cls(columns, tuple(cost[list(columns), 0]), (math.inf, *steps.price.tolist()))

    def around(self, cost_usd: float) -> tuple[_Move | None, _Move | None]:
        """Return the steps up and down from a choice of this cost, each with its price."""
        above = int(np.searchsorted(self.costs, cost_usd, side="right"))
        below = int(np.searchsorted(self.costs, cost_usd, side="left")) - 1
        up = (self.columns[above], self.prices[above]) if above < len(self.columns) else None
        down = (self.columns[below], self.prices[below + 1]) if below >= 0 else None
        return up, down


def _standings(
    value: Float64[np.ndarray, " models"], chosen: int, hull: _Hull
) -> list[tuple[Standing, float]]:
    """Return each model's standing, and its regret at the shadow price."""
    best = float(value[chosen]) if chosen >= 0 else float(value.max())
    others = np.where(np.arange(len(value)) == chosen, -np.inf, value)
    runner_up = int(others.argmax()) if np.isfinite(others).any() else -1
    standings: list[tuple[Standing, float]] = []
    for at, worth in enumerate(value.tolist()):
        if math.isinf(worth):
            standings.append(("ruled out", 0.0))
            continue
        standing: Standing = "possible" if at in hull.columns else "dominated"
        standing = "runner-up" if at == runner_up else standing
        standings.append(("chosen" if at == chosen else standing, best - worth))
    return standings


def _change(problem: Problem, models: Sequence[str], move: _Move | None) -> Change | None:
    if move is None or not math.isfinite(move[1]):
        return None
    return Change(models[move[0]], move[1], cost_at_price(problem, move[1]))
