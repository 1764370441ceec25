"""What estimates are worth once money is spent by them: quality over a range of budgets."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from routoo.evaluation.mix import log_budgets, mix_quality
from routoo.selector import Problem, solve

_SLACK = 1 + 1e-9
"""A budget equal to the cheapest model's mean cost must not fail by a rounding."""

Weights = Float64[np.ndarray, "draws items"]
"""How often each bootstrap draw holds each item, over the number of items."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Items that all models of a pool answered, with what each answer scored and cost."""

    score: Float64[np.ndarray, "items models"]
    cost_usd: Float64[np.ndarray, "items models"]
    expected_cost_usd: Float64[np.ndarray, "items models"]
    """What a router may know before the call."""

    @property
    def budgets_usd(self) -> Float64[np.ndarray, " budgets"]:
        """Mean costs per call over the pool's range."""
        return log_budgets(self.expected_cost_usd.mean(axis=0))


@dataclass(frozen=True, slots=True)
class Routed:
    """What the chosen models scored and cost, at each budget."""

    score: Float64[np.ndarray, "budgets items"]
    cost_usd: Float64[np.ndarray, "budgets items"]

    def quality(self, weights: Weights) -> Float64[np.ndarray, "draws budgets"]:
        """Return the mean score at each budget."""
        return np.asarray(weights @ self.score.T)

    def gain(self, trial: Trial, weights: Weights) -> Float64[np.ndarray, "draws budgets"]:
        """Return quality above the best random mix that costs what the routing really cost."""
        spent = weights @ self.cost_usd.T
        means, costs = weights @ trial.score, weights @ trial.cost_usd
        mixes = [mix_quality(*row) for row in zip(means, costs, spent, strict=True)]
        return np.asarray(self.quality(weights) - np.stack(mixes))


def route(trial: Trial, quality: Float32[np.ndarray, "items models"]) -> Routed:
    """Select over the trial's budgets by estimates of quality."""
    costs = trial.expected_cost_usd
    cheapest, rows = costs.argmin(axis=1), np.arange(len(costs))
    scores, spent = [], []
    for budget in trial.budgets_usd:
        allowance = float(budget) * len(costs) * _SLACK
        problem = Problem(quality.astype(np.float64), costs, budget_usd=allowance)
        solution = solve(problem, allow_partial=True)
        choice = np.where(solution.choice < 0, cheapest, solution.choice)
        scores.append(trial.score[rows, choice])
        spent.append(trial.cost_usd[rows, choice])
    return Routed(np.stack(scores), np.stack(spent))


def area(
    budgets_usd: Float64[np.ndarray, " budgets"], quality: Float64[np.ndarray, "draws budgets"]
) -> Float64[np.ndarray, " draws"]:
    """Return AIQ: the mean height of the cost-quality curve (RouterBench, Hu et al. 2024).

    Over linear cost, as there; on the running best, since nobody needs to spend more for less.
    """
    best = np.maximum.accumulate(quality, axis=1)
    width = float(budgets_usd[-1] - budgets_usd[0])
    if width <= 0:
        return np.asarray(best[:, -1])
    return np.asarray(np.trapezoid(best, budgets_usd, axis=1) / width)
