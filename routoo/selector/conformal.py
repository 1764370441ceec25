"""Quality floors that hold with stated confidence, without trust in the predictor.

Split conformal prediction: on held-out graded answers, how far was quality overestimated? The
quantile of that, with a correction for finite samples, is taken off every new estimate. If new jobs
are exchangeable with the held-out ones, the graded score is at least the bound with probability
`confidence`, whatever the predictor's faults.

Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Lei et al.,
Distribution-free predictive inference for regression, JASA 113 (2018), section 2.2.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from routoo.errors import InputError


@dataclass(frozen=True, slots=True)
class ConformalFloor:
    """What to take off each model's estimates so that the rest holds with confidence."""

    margin: Float64[np.ndarray, " models"]
    """Infinite where too few answers were graded for the confidence asked."""
    confidence: float

    def lower(
        self, quality: Float[np.ndarray, "jobs models"]
    ) -> Float64[np.ndarray, "jobs models"]:
        """Return the bound that a graded score reaches with the stated confidence.

        It is never below 0, the least score there is; a bound of 0 promises nothing.
        """
        bound: Float64[np.ndarray, "jobs models"] = np.maximum(quality - self.margin, 0.0)
        return bound


def fit_floor(
    quality: Float[np.ndarray, "jobs models"],
    score: Float[np.ndarray, "jobs models"],
    confidence: float,
) -> ConformalFloor:
    """Fit the margins on graded answers that the predictor did not learn from.

    Args:
        quality: Estimates.
        score: Grades of the same pairs, in [0, 1]; NaN where an answer was not graded.
        confidence: Share of future scores to be at or above their bound, inside (0, 1).

    Returns:
        A floor for each model on its own.

    Raises:
        InputError: The confidence is no such share.
    """
    if not 0.0 < confidence < 1.0:
        raise InputError("confidence must lie between 0 and 1", value=confidence)
    excess = np.asarray(quality, np.float64) - score
    margins = [_quantile(column[np.isfinite(column)], confidence) for column in excess.T]
    return ConformalFloor(np.array(margins), confidence)


def _quantile(excess: Float64[np.ndarray, " answers"], confidence: float) -> float:
    """Return the ceil((n + 1) x confidence)-th smallest excess; infinite where n is too small."""
    rank = math.ceil((len(excess) + 1) * confidence)
    if rank > len(excess):
        return math.inf
    return float(np.partition(excess, rank - 1)[rank - 1])
