"""Trials of a pool: the items that all its models answered, with what each answer cost."""

import numpy as np
from jaxtyping import Float, Float32, Float64

from routoo.domain.tables import Outcomes
from routoo.errors import InputError
from routoo.evaluation.routing import Trial
from routoo.predictor.dataset import OutcomeMatrix


def cost_matrix(matrix: OutcomeMatrix, outcomes: Outcomes) -> Float64[np.ndarray, "items models"]:
    """Return the cost in USD of each answer; NaN where it is not known."""
    return _matrix(matrix, outcomes, outcomes.cost_usd)


def latency_matrix(
    matrix: OutcomeMatrix, outcomes: Outcomes
) -> Float32[np.ndarray, "items models"]:
    """Return the time of each call in seconds; NaN where it is not known."""
    return _matrix(matrix, outcomes, outcomes.latency_s).astype(np.float32)


def _matrix(
    matrix: OutcomeMatrix, outcomes: Outcomes, value: Float[np.ndarray, " rows"]
) -> Float64[np.ndarray, "items models"]:
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


def complete_trial(
    matrix: OutcomeMatrix,
    costs: Float64[np.ndarray, "items models"],
    columns: list[int],
    expected_cost_usd: Float64[np.ndarray, "items models"] | None = None,
) -> tuple[np.ndarray, Trial]:
    """Keep the items that all models of the pool answered at a known cost.

    Args:
        matrix: Scores of all models.
        costs: What each answer cost, in USD.
        columns: The pool.
        expected_cost_usd: What a router expected before the calls; None takes each model's mean,
            since it is not told what an answer will cost.

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
    if expected_cost_usd is None:
        expected = np.repeat(cost[rows].mean(axis=0)[None], len(rows), axis=0)
    else:
        expected = expected_cost_usd[rows][:, columns]
    return rows, Trial(score[rows], cost[rows], expected)
