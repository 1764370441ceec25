"""What estimates are worth once money is spent by them: quality over a range of budgets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from routoo.evaluation.bootstrap import Weights
from routoo.selector import Problem, solve
from routoo.statistics import Hull, log_budgets

_SLACK = 1 + 1e-9
"""A budget equal to the cheapest model's mean cost must not fail by a rounding."""


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

    def mixes(self, weights: Weights) -> list[Hull]:
        """Return the random mix of single models in each draw."""
        means, costs = weights @ self.score, weights @ self.cost_usd
        return [Hull.over(cost, mean) for mean, cost in zip(means, costs, strict=True)]


@dataclass(frozen=True, slots=True)
class Spread:
    """What items scored and cost, at each budget."""

    score: Float64[np.ndarray, "budgets items"]
    cost_usd: Float64[np.ndarray, "budgets items"]

    def quality(self, weights: Weights) -> Float64[np.ndarray, "draws budgets"]:
        """Return the mean score at each budget."""
        return np.asarray(weights @ self.score.T)

    def spent_usd(self, weights: Weights) -> Float64[np.ndarray, "draws budgets"]:
        """Return the mean cost of a call at each budget, in USD."""
        return np.asarray(weights @ self.cost_usd.T)

    def hulls(self, weights: Weights) -> list[Hull]:
        """Return the cost-quality curve in each draw."""
        pairs = zip(self.spent_usd(weights), self.quality(weights), strict=True)
        return [Hull.over(cost, quality) for cost, quality in pairs]

    def gain(self, mixes: Sequence[Hull], weights: Weights) -> Float64[np.ndarray, "draws budgets"]:
        """Return quality above the best random mix that costs what was really spent."""
        pairs = zip(mixes, self.spent_usd(weights), strict=True)
        return np.asarray(
            self.quality(weights) - np.stack([mix.quality_at(at) for mix, at in pairs])
        )


@dataclass(frozen=True, slots=True)
class Routed(Spread):
    """What the chosen models scored and cost, at each budget."""

    choice: Int64[np.ndarray, "budgets items"]
    """Column of the model that answers."""


def route(trial: Trial, quality: Float32[np.ndarray, "items models"]) -> Routed:
    """Select over the trial's budgets by estimates of quality."""
    costs = trial.expected_cost_usd
    cheapest, rows = costs.argmin(axis=1), np.arange(len(costs))
    choices = []
    for budget in trial.budgets_usd:
        allowance = float(budget) * len(costs) * _SLACK
        problem = Problem(quality.astype(np.float64), costs, budget_usd=allowance)
        solution = solve(problem, allow_partial=True)
        choices.append(np.where(solution.choice < 0, cheapest, solution.choice).astype(np.int64))
    choice = np.stack(choices)
    return Routed(trial.score[rows, choice], trial.cost_usd[rows, choice], choice)


def matched_round_robin(trial: Trial, routed: Routed) -> Spread:
    """Deal each budget's models out blindly, in the shares in which the router chose them.

    Each item counts the mean over who may answer it: the figure of an endless round-robin, without
    the luck of one deal. It tells what a router's shares bring, and what its choices add.
    """
    models = trial.score.shape[1]
    shares = np.stack([np.bincount(row, minlength=models) for row in routed.choice])
    shares = shares / routed.choice.shape[1]
    return Spread(shares @ trial.score.T, shares @ trial.cost_usd.T)
