"""Simple ways to choose, to be beaten: what a router's gain is measured against.

Each returns a choice: the column of each job's model, -1 where none is allowed. Costs are sums of
floats; none of these is meant to spend real money.
"""

import numpy as np
from jaxtyping import Float, Float64, Int32

from routoo.selector.problem import OptionTable, Problem
from routoo.selector.solution import Solution

Choice = Int32[np.ndarray, " jobs"]


def totals(problem: Problem, choice: Choice) -> tuple[float, float]:
    """Return the sums of quality and cost (USD) of a choice."""
    quality, cost = OptionTable.of(problem).pick(choice)
    return float(quality.sum()), float(cost.sum())


def choose_cheapest(problem: Problem) -> Choice:
    """Give every job its cheapest allowed model; of equally cheap ones the best."""
    quality, cost = _dense(problem)
    barred = np.isneginf(quality)
    cost = np.where(barred, np.inf, cost)
    return _first_best(problem, np.where(cost <= cost.min(axis=1, keepdims=True), quality, -np.inf))


def choose_best(problem: Problem) -> Choice:
    """Give every job its best allowed model; of equally good ones the cheapest."""
    quality, cost = _dense(problem)
    best = quality >= quality.max(axis=1, keepdims=True)
    return _first_best(problem, np.where(best, -cost, -np.inf))


def choose_single(problem: Problem, model: int) -> Choice:
    """Give every job that may have it one and the same model; -1 to the others."""
    choice = np.full(problem.jobs, model, dtype=np.int32)
    return choice if problem.allowed is None else np.where(problem.allowed[:, model], choice, -1)


def choose_round_robin(problem: Problem) -> Choice:
    """Deal the models out in turn; a job that may not have its turn's model gets the next one."""
    rows, models = np.arange(problem.jobs), problem.options
    if problem.allowed is None:
        return (rows % models).astype(np.int32)
    turn = (rows[:, None] + np.arange(models)) % models
    first = problem.allowed[rows[:, None], turn].argmax(axis=1)
    return np.where(problem.allowed.any(axis=1), turn[rows, first], -1).astype(np.int32)


def choose_matched_mix(problem: Problem, solution: Solution, seed: int) -> Choice:
    """Deal a solution's models out at random: the same shares, without looking at the prompts."""
    rng = np.random.default_rng(seed)
    served = np.flatnonzero(solution.choice >= 0)
    choice = solution.choice.copy()
    choice[served] = rng.permutation(solution.choice[served])
    if problem.allowed is not None:
        barred = served[~problem.allowed[served, choice[served]]]
        choice[barred] = solution.choice[barred]
    return choice


def choose_random_mix(problem: Problem, cost_usd: float, seed: int) -> Choice:
    """Mix the two fixed models whose mix is best at an expected cost, job by job at random.

    Args:
        problem: The jobs; where a job may not have the model drawn, it gets its cheapest.
        cost_usd: Expected cost of the whole mix, in USD.
        seed: Decides which jobs get which.
    """
    quality, cost = _dense(problem)
    barred = np.isneginf(quality)
    means = np.where(barred, 0.0, quality).mean(axis=0)
    costs = cost.mean(axis=0)
    low, high, share = _best_mix(means, costs, cost_usd / max(1, problem.jobs))
    drawn = np.random.default_rng(seed).random(problem.jobs) < share
    choice = np.where(drawn, high, low).astype(np.int32)
    stuck = barred[np.arange(problem.jobs), choice]
    choice[stuck] = choose_cheapest(problem)[stuck]
    return choice


def choose_by_threshold(problem: Problem, cheap: int, strong: int, threshold: float) -> Choice:
    """Ask the strong model where the cheap one's expected quality is below a threshold.

    The per-job rule of a two-model router, which knows nothing of the batch.
    """
    quality, _ = _dense(problem)
    weak = quality[:, cheap] < threshold
    choice = np.where(weak & ~np.isneginf(quality[:, strong]), strong, cheap).astype(np.int32)
    stuck = np.isneginf(quality[np.arange(problem.jobs), choice])
    choice[stuck] = choose_cheapest(problem)[stuck]
    return choice


def fit_threshold(problem: Problem, cheap: int, strong: int) -> float:
    """Return the highest threshold at which `choose_by_threshold` keeps the budget."""
    budget = float(problem.budget_usd) if problem.budget_usd is not None else np.inf
    levels = np.unique(problem.quality[:, cheap].astype(np.float64))
    levels = np.r_[levels, np.inf]
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high + 1) // 2
        choice = choose_by_threshold(problem, cheap, strong, float(levels[middle]))
        low, high = (middle, high) if totals(problem, choice)[1] <= budget else (low, middle - 1)
    return float(levels[low])


def oracle(problem: Problem, scores: Float[np.ndarray, "jobs models"]) -> Problem:
    """Return the problem of a router that knows the true scores, which bounds all routers."""
    return Problem(
        scores,
        problem.cost_usd,
        problem.allowed,
        budget_usd=problem.budget_usd,
        min_mean_quality=problem.min_mean_quality,
        willingness_to_pay_usd=problem.willingness_to_pay_usd,
        capacities=problem.capacities,
    )


def _dense(
    problem: Problem,
) -> tuple[Float64[np.ndarray, "jobs models"], Float64[np.ndarray, "jobs models"]]:
    quality, cost = OptionTable.of(problem).dense()
    return quality.T, cost.T


def _first_best(problem: Problem, value: Float64[np.ndarray, "jobs models"]) -> Choice:
    column: Choice = value.argmax(axis=1).astype(np.int32)
    if problem.allowed is None:
        return column
    return np.where(problem.allowed.any(axis=1), column, -1).astype(np.int32)


def _best_mix(
    means: Float64[np.ndarray, " models"], costs: Float64[np.ndarray, " models"], mean_cost: float
) -> tuple[int, int, float]:
    """Return a cheaper and a dearer model and the dearer one's share, best at a mean cost."""
    best, mix = -np.inf, (int(costs.argmin()), int(costs.argmin()), 0.0)
    for low in np.flatnonzero(costs <= mean_cost).tolist():
        for high in range(len(costs)):
            extra = costs[high] - costs[low]
            share = min(1.0, (mean_cost - costs[low]) / extra) if extra > 0 else 1.0
            if extra <= 0 and costs[high] > mean_cost:
                continue
            value = (1 - share) * means[low] + share * means[high]
            if value > best:
                best, mix = value, (low, high, float(share))
    return mix
