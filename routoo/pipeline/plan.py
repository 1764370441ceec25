"""The plan of a batch: what the selection expects, kept with the batch as JSON."""

from typing import Any

import numpy as np

from routoo.domain.pool import Pool
from routoo.pipeline.matrix import BatchMatrix
from routoo.selector.solution import Solution


def describe_plan(pool: Pool, matrix: BatchMatrix, solution: Solution) -> dict[str, Any]:
    """Return what was chosen, how good it provably is, and what each model alone would bring.

    Keys: `status`, `advice`, `jobs`, `served`, `no_eligible_model`, `unaffordable` (jobs),
    `expected_quality` (mean over the served jobs), `expected_cost_usd`, `value`, `bound`, `gap`,
    `shadow_price_per_usd`, and `models`: in pool order `model`, `jobs`, `share` of the served jobs,
    `alone_quality` (mean) and `alone_cost_usd` (total) if it answered every job of the batch.
    """
    served = solution.served
    chosen = np.bincount(solution.choice[solution.choice >= 0], minlength=len(pool.models))
    return {
        "status": solution.status.value,
        "advice": solution.advice,
        "jobs": len(solution.choice),
        "served": served,
        "no_eligible_model": len(matrix.misfits),
        "unaffordable": solution.unaffordable,
        "expected_quality": solution.mean_quality,
        "expected_cost_usd": solution.cost_usd,
        "value": solution.value,
        "bound": solution.bound,
        "gap": solution.gap,
        "shadow_price_per_usd": solution.shadow_price_per_usd,
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
