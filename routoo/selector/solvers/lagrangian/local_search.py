"""The split solution, and how the slack that it leaves is put to use.

The path of falling prices stops at the first step that no longer fits: the choice there is the
split solution. What is left then buys the best single change that fits, or the best pair of
changes, one paying for the other. All decisions about what fits are made in exact arithmetic.

Source: Kellerer, Pferschy and Pisinger, Knapsack Problems (2004), sections 2.2 and 11.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float64, Int16, Int64

from routoo.selector.option_table import OptionTable
from routoo.selector.solvers.lagrangian.price_path import PricePath

NEIGHBOURS = 256
"""Steps on either side of the split whose jobs are looked at again."""
ROUNDS = 64
"""Most changes, or pairs of changes, that are applied."""
TRIES = 8
"""Best pairs looked at in a round before it counts as fruitless."""


@dataclass(slots=True)
class Exchange:
    """The options of some jobs, their gains and uses of the slack, and the choice so far."""

    gain: Float64[np.ndarray, "columns jobs"]
    """What the objective gains by an option; minus infinity where it is ruled out."""
    use: Float64[np.ndarray, "columns jobs"]
    """What an option draws from the slack."""
    column: Int16[np.ndarray, " jobs"]
    """Columns chosen; changed in place."""
    slack: Fraction
    """What is left, exactly; at least 0."""


_Move = tuple[int, int]
"""A job's position and its new column."""


def improve(exchange: Exchange, enough: float) -> float:
    """Apply the best changes that fit until the gain is enough or none is left.

    Args:
        exchange: Changed in place: its columns and its slack.
        enough: Stop once this much was gained.

    Returns:
        The gain.
    """
    gained = 0.0
    for _ in range(ROUNDS):
        if gained >= enough or len(exchange.column) == 0:
            break
        step = next((best for best in _candidates(exchange) if _fits(exchange, best)), None)
        if step is None:
            break
        gained += _apply(exchange, step)
    return gained


def _candidates(exchange: Exchange) -> Iterator[tuple[_Move, ...]]:
    """Yield changes that fit, to float precision, and gain; the most gain first."""
    here = np.arange(len(exchange.column))
    gain = (exchange.gain - exchange.gain[exchange.column, here]).ravel()
    use = (exchange.use - exchange.use[exchange.column, here]).ravel()
    up = np.flatnonzero(gain > 0)
    up = up[np.lexsort((-gain[up], use[up]))]
    down = np.flatnonzero((use < 0) & np.isfinite(gain))
    # Position len(here)-wise: flat index = column * jobs + job. "No move" pays nothing.
    pay = np.concatenate(([0.0], -use[down]))
    loss = np.concatenate(([0.0], -gain[down]))
    best, owner = _running_best(gain[up])
    reach = np.searchsorted(use[up], float(exchange.slack) + pay, side="right") - 1
    net = np.where(reach >= 0, best[reach], -np.inf) - loss if len(up) else np.full(len(pay), -1.0)
    order = np.argsort(-net, kind="stable")[:TRIES]
    for at in order[net[order] > 0].tolist():
        moves = [int(up[owner[reach[at]]])] + ([int(down[at - 1])] if at > 0 else [])
        yield tuple((move % len(here), move // len(here)) for move in moves)


def _running_best(
    gain: Float64[np.ndarray, " moves"],
) -> tuple[Float64[np.ndarray, " moves"], Int64[np.ndarray, " moves"]]:
    """Return the largest gain up to each position, and the position it was first seen at."""
    best = np.maximum.accumulate(gain)
    fresh = np.concatenate(([True], best[1:] > best[:-1]))[: len(gain)]
    return best, np.maximum.accumulate(np.where(fresh, np.arange(len(gain)), 0))


def _fits(exchange: Exchange, moves: tuple[_Move, ...]) -> bool:
    if len({job for job, _ in moves}) < len(moves):
        return False
    return _draw(exchange, moves) <= exchange.slack


def _draw(exchange: Exchange, moves: tuple[_Move, ...]) -> Fraction:
    return sum(
        (
            Fraction(exchange.use[column, job]) - Fraction(exchange.use[exchange.column[job], job])
            for job, column in moves
        ),
        Fraction(0),
    )


def _apply(exchange: Exchange, moves: tuple[_Move, ...]) -> float:
    exchange.slack -= _draw(exchange, moves)
    gained = 0.0
    for job, column in moves:
        gained += float(exchange.gain[column, job] - exchange.gain[exchange.column[job], job])
        exchange.column[job] = column
    return gained


@dataclass(slots=True)
class SplitSolution:
    """The choice after the first steps of a path."""

    path: PricePath
    taken: int
    choice: Int16[np.ndarray, " jobs"]

    @classmethod
    def after(cls, path: PricePath, taken: int) -> "SplitSolution":
        """Take the first steps of a path; of a job's several steps the last one counts."""
        choice = path.choice.copy()
        choice[path.steps.job[:taken]] = path.steps.column[:taken]
        return cls(path, taken, choice)

    def price(self, step: int) -> float:
        """Return the quality per USD that a step buys; past the last one, where the path ends."""
        prices = self.path.steps.price
        return float(prices[step]) if step < len(prices) else self.path.low_price

    def spend(
        self, table: OptionTable, slack: Fraction, *, floor_price: float, enough: float
    ) -> None:
        """Buy more quality with the money left, until `enough` was gained."""
        jobs = self._jobs_near_split(table)
        quality, cost = table.rows(jobs).dense()
        exchange = Exchange(quality - floor_price * cost, cost, self.choice[jobs], slack)
        improve(exchange, enough)
        self.choice[jobs] = exchange.column

    def save(self, table: OptionTable, surplus: Fraction, *, enough: float) -> None:
        """Save money with the surplus of quality, until `enough` was saved."""
        jobs = self._jobs_near_split(table)
        quality, cost = table.rows(jobs).dense()
        saving = np.where(np.isneginf(quality), -np.inf, -cost)
        exchange = Exchange(saving, -quality, self.choice[jobs], surplus)
        improve(exchange, enough)
        self.choice[jobs] = exchange.column

    def _jobs_near_split(self, table: OptionTable) -> Int64[np.ndarray, " jobs"]:
        """Return served jobs whose steps are about worth the price at the split."""
        if table.jobs <= NEIGHBOURS:
            return np.flatnonzero(self.choice >= 0)
        near = slice(max(0, self.taken - NEIGHBOURS), self.taken + NEIGHBOURS)
        return np.unique(self.path.steps.job[near])
