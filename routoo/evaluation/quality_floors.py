"""What a checkpoint keeps so that a quality floor can hold with stated confidence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from routoo.selector.conformal import fit_floor

CONFIDENCES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
"""A confidence between two of these is served by the higher one, which promises more."""
WORST_MARGIN = 1.0
"""Takes every estimate to 0: too few answers were graded for the confidence."""


def floor_margins(
    quality: Float[np.ndarray, "items models"],
    score: Float[np.ndarray, "items models"],
    models: Sequence[str],
) -> dict[str, Any]:
    """Return each model's margin at several confidences, as a manifest's `floor_margins`.

    Args:
        quality: Estimates of items that the parts which made them were not fitted on.
        score: Grades in [0, 1]; NaN where there is none.
        models: Names of the columns.
    """
    table = [fit_floor(quality, score, confidence).margin for confidence in CONFIDENCES]
    margins = np.minimum(np.array(table), WORST_MARGIN)
    return {
        "confidences": list(CONFIDENCES),
        "models": {name: margins[:, column].tolist() for column, name in enumerate(models)},
    }
