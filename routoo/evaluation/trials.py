"""Trials of a pool: the items that all its models answered, with what each answer cost."""

import numpy as np
from jaxtyping import Float64

from routoo.domain.tables import Outcomes
from routoo.errors import InputError
from routoo.evaluation.routing import Trial
from routoo.predictor.dataset import OutcomeMatrix


def cost_matrix(matrix: OutcomeMatrix, outcomes: Outcomes) -> Float64[np.ndarray, "items models"]:
    """Return the cost in USD of each answer; NaN where it is not known."""
    row = {item.item_id: number for number, item in enumerate(matrix.items)}
    column = {name: number for number, name in enumerate(matrix.models)}
    costs = np.full(matrix.score.shape, np.nan)
    for number, (item_id, model) in enumerate(zip(outcomes.item_ids, outcomes.models, strict=True)):
        if item_id in row and model in column:
            costs[row[item_id], column[model]] = outcomes.cost_usd[number]
    return costs


def priced_columns(costs: Float64[np.ndarray, "items models"]) -> list[int]:
    """Return the models that have a cost on any item."""
    return [int(column) for column in np.flatnonzero(~np.isnan(costs).all(axis=0))]


def complete_trial(
    matrix: OutcomeMatrix, costs: Float64[np.ndarray, "items models"], columns: list[int]
) -> tuple[np.ndarray, Trial]:
    """Keep the items that all models of the pool answered at a known cost.

    The costs that a router expects are each model's mean: it is not told what an answer will cost.

    Returns:
        Positions of the items kept, and the trial over them.

    Raises:
        InputError: No item has them all, or fewer than two models have costs.
    """
    score, cost = matrix.score[:, columns].astype(np.float64), costs[:, columns]
    rows = np.flatnonzero(~np.isnan(score).any(axis=1) & ~np.isnan(cost).any(axis=1))
    if not len(rows) or len(columns) < 2:  # noqa: PLR2004 - nothing to route between
        raise InputError(
            "no item was answered by two or more models at a known cost",
            remedy="Name models with --model that answered the same items and have cost_usd",
        )
    expected = np.repeat(cost[rows].mean(axis=0)[None], len(rows), axis=0)
    return rows, Trial(score[rows], cost[rows], expected)
