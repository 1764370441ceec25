"""Routes items by estimates of quality at many budgets, and measures what that brings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from routoo.domain.tables import Outcomes
from routoo.errors import InputError
from routoo.evaluation.bootstrap import Weights
from routoo.evaluation.quality_metrics import Quality
from routoo.predictor.dataset import OutcomeMatrix
from routoo.selector import Problem, solve
from routoo.statistics import Hull, log_budgets

_SLACK = 1 + 1e-9
"""A budget equal to the cheapest model's mean cost must not fail by a rounding."""


@dataclass(frozen=True, slots=True)
class CompleteOutcomes:
    """Items that every model of a pool answered, with what each answer scored and cost."""

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
class RoutingCurve:
    """What each item scored and cost at each of several budgets."""

    score: Float64[np.ndarray, "budgets items"]
    cost_usd: Float64[np.ndarray, "budgets items"]

    def quality(self, weights: Weights) -> Float64[np.ndarray, "draws budgets"]:
        """Return the mean score at each budget."""
        return np.asarray(weights @ self.score.T)

    def spent_usd(self, weights: Weights) -> Float64[np.ndarray, "draws budgets"]:
        """Return the mean cost of a call at each budget, in USD."""
        return np.asarray(weights @ self.cost_usd.T)

    def hulls(self, weights: Weights) -> list[Hull]:
        """Return the cost-quality hull in each draw."""
        pairs = zip(self.spent_usd(weights), self.quality(weights), strict=True)
        return [Hull.over(cost, quality) for cost, quality in pairs]

    def gain(self, mixes: Sequence[Hull], weights: Weights) -> Float64[np.ndarray, "draws budgets"]:
        """Return quality above the best random mix that costs what was really spent."""
        pairs = zip(mixes, self.spent_usd(weights), strict=True)
        return np.asarray(
            self.quality(weights) - np.stack([mix.quality_at(at) for mix, at in pairs])
        )


@dataclass(frozen=True, slots=True)
class ChosenCurve(RoutingCurve):
    """The routing curve of a router that chooses one model for each item."""

    choice: Int64[np.ndarray, "budgets items"]
    """Column of the model that answers."""


def route(outcomes: CompleteOutcomes, quality: Quality) -> ChosenCurve:
    """Choose a model for each item by estimates of quality, once for every budget."""
    costs = outcomes.expected_cost_usd
    cheapest, rows = costs.argmin(axis=1), np.arange(len(costs))
    choices = []
    for budget in outcomes.budgets_usd:
        allowance = float(budget) * len(costs) * _SLACK
        problem = Problem(quality.astype(np.float64), costs, budget_usd=allowance)
        solution = solve(problem, allow_partial=True)
        choices.append(np.where(solution.choice < 0, cheapest, solution.choice).astype(np.int64))
    choice = np.stack(choices)
    return ChosenCurve(outcomes.score[rows, choice], outcomes.cost_usd[rows, choice], choice)


def matched_round_robin(outcomes: CompleteOutcomes, routed: ChosenCurve) -> RoutingCurve:
    """Return a round-robin over each budget's models, in the shares in which the router chose them.

    Each item counts the mean over the models: the expected figure of such a round-robin. What
    the router has above it comes from its choices, and not from its shares.
    """
    models = outcomes.score.shape[1]
    shares = np.stack([np.bincount(row, minlength=models) for row in routed.choice])
    shares = shares / routed.choice.shape[1]
    return RoutingCurve(shares @ outcomes.score.T, shares @ outcomes.cost_usd.T)


def choose(
    outcomes: CompleteOutcomes, quality: Quality, mean_budget_usd: float
) -> Int64[np.ndarray, " items"]:
    """Return the column of the model that answers each item under a budget a call, in USD."""
    costs = outcomes.expected_cost_usd
    least = costs.min(axis=1).sum()
    budget = max(mean_budget_usd * len(costs), float(least)) * _SLACK
    return np.asarray(
        solve(Problem(quality.astype(np.float64), costs, budget_usd=budget)).choice, np.int64
    )


def cost_matrix(matrix: OutcomeMatrix, outcomes: Outcomes) -> Float64[np.ndarray, "items models"]:
    """Return the cost in USD of each answer; NaN where it is not known."""
    return _arranged(matrix, outcomes, outcomes.cost_usd)


def latency_matrix(
    matrix: OutcomeMatrix, outcomes: Outcomes
) -> Float32[np.ndarray, "items models"]:
    """Return the time of each call in seconds; NaN where it is not known."""
    return _arranged(matrix, outcomes, outcomes.latency_s).astype(np.float32)


def _arranged(
    matrix: OutcomeMatrix, outcomes: Outcomes, value: Float[np.ndarray, " rows"]
) -> Float64[np.ndarray, "items models"]:
    """Return a column of an outcome table as a matrix of items by models."""
    row = {item.item_id: number for number, item in enumerate(matrix.items)}
    column = {name: number for number, name in enumerate(matrix.models)}
    known = np.full(matrix.score.shape, np.nan)
    for number, (item_id, model) in enumerate(zip(outcomes.item_ids, outcomes.models, strict=True)):
        if item_id in row and model in column:
            known[row[item_id], column[model]] = value[number]
    return known


def priced_columns(costs: Float64[np.ndarray, "items models"]) -> list[int]:
    """Return the models that have a cost on any item."""
    return [int(column) for column in np.flatnonzero(~np.isnan(costs).all(axis=0))]


def complete_outcomes(
    matrix: OutcomeMatrix,
    costs: Float64[np.ndarray, "items models"],
    columns: list[int],
    expected_cost_usd: Float64[np.ndarray, "items models"] | None = None,
) -> tuple[np.ndarray, CompleteOutcomes]:
    """Keep the items that all models of the pool answered at a known cost.

    Args:
        matrix: Scores of all models.
        costs: What each answer cost, in USD.
        columns: The pool.
        expected_cost_usd: What a router expected before the calls; None takes each model's mean,
            since a router does not know what an answer will cost.

    Returns:
        Positions of the items kept, and their outcomes.

    Raises:
        InputError: No item has them all, or fewer than two models have costs.
    """
    score, cost = matrix.score[:, columns].astype(np.float64), costs[:, columns]
    rows = np.flatnonzero(~np.isnan(score).any(axis=1) & ~np.isnan(cost).any(axis=1))
    if not len(rows) or len(columns) <= 1:
        raise InputError(
            "no item was answered by two or more models at a known cost",
            remedy="Name models with --model that answered the same items and have cost_usd",
        )
    if expected_cost_usd is None:
        expected = np.repeat(cost[rows].mean(axis=0)[None], len(rows), axis=0)
    else:
        expected = expected_cost_usd[rows][:, columns]
    return rows, CompleteOutcomes(score[rows], cost[rows], expected)
