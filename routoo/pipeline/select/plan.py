"""The plan of a batch: what the selection expects, kept with the batch as JSON."""

import math
from typing import Any

import numpy as np

from routoo.domain.pool import Pool
from routoo.domain.prediction import Experience, experience_to_json
from routoo.pipeline.select.estimates import NOTHING_KNOWN
from routoo.pipeline.select.matrix import BatchMatrix
from routoo.selector.solution import Solution
from routoo.statistics import mix_quality


def describe_plan(
    pool: Pool, matrix: BatchMatrix, solution: Solution, experience: Experience = NOTHING_KNOWN
) -> dict[str, Any]:
    """Return what was chosen, how good it provably is, and what each model alone would bring.

    Keys: `status`, `advice`, `jobs`, `served`, `no_eligible_model`, `unaffordable` (jobs),
    `expected_quality` (mean over the served jobs), `expected_cost_usd`, `value`, `bound`, `gap`
    (null where nothing could be chosen), `shadow_price_per_usd`, `shadow_prices` (quality per unit
    of each capacity, by name),
    `experience` (what was known of each model, so that later stages estimate alike),
    `random_mix_quality` (of a random mix of models at the same cost) and `models`:
    in pool order `model`, `jobs`, `share` of the served jobs, `alone_quality` (mean) and
    `alone_cost_usd` (total) if it answered every job of the batch.
    """
    served = solution.served
    rows = np.flatnonzero(solution.choice >= 0)
    # Not the solution's own mean: that is the lower bound where the batch is cautious.
    quality = matrix.quality[rows, solution.choice[rows]].astype(np.float64)
    chosen = np.bincount(solution.choice[solution.choice >= 0], minlength=len(pool.models))
    return {
        "status": solution.status.value,
        "advice": solution.advice,
        "jobs": len(solution.choice),
        "served": served,
        "no_eligible_model": len(matrix.misfits),
        "unaffordable": solution.unaffordable,
        "expected_quality": float(quality.mean()) if served else 0.0,
        "expected_cost_usd": solution.cost_usd,
        "value": _finite(solution.value),
        "bound": _finite(solution.bound),
        "gap": _finite(solution.gap),
        "shadow_price_per_usd": solution.shadow_price_per_usd,
        "shadow_prices": solution.shadow_prices,
        "experience": experience_to_json(experience),
        "random_mix_quality": _mix(matrix, solution),
        "models": [
            {
                "model": model.name,
                "jobs": int(chosen[column]),
                "share": chosen[column] / served if served else 0.0,
                "alone_quality": float(matrix.quality[:, column].mean(dtype=np.float64)),
                "alone_cost_usd": float(matrix.cost_usd[:, column].sum()),
            }
            for column, model in enumerate(pool.models)
        ],
    }


def _mix(matrix: BatchMatrix, solution: Solution) -> float | None:
    """Return what the money buys without a predictor; None where it pays for no model alone.

    A plan that serves nobody spends nothing, and there is nothing to compare.
    """
    quality = matrix.quality.mean(axis=0, dtype=np.float64)
    cost_usd = matrix.cost_usd.sum(axis=0)
    if not solution.served or solution.cost_usd < cost_usd.min():
        return None
    return float(mix_quality(quality, cost_usd, np.array([solution.cost_usd]))[0])


def _finite(number: float) -> float | None:
    """Return a number that JSON knows."""
    return number if math.isfinite(number) else None
