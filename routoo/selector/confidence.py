"""Lowers estimates of quality to bounds that hold with some confidence.

Lower bounds and intervals take the estimates' own standard deviations at their word. Conformal
floors don't trust the predictor at all (split conformal prediction): on held-out graded answers,
how far was quality overestimated? The quantile of that, with a correction for finite samples, is
taken off every new estimate. If new jobs are exchangeable with the held-out ones, the graded score
is at least the bound with probability `confidence`, whatever the predictor's faults.

Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Lei et al.,
Distribution-free predictive inference for regression, JASA 113 (2018), section 2.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from routoo.errors import InputError

CONFIDENCES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975, 0.99)
"""A confidence between two of these is served by the higher one, which promises more."""
WORST_MARGIN = 1.0
"""Takes every estimate to 0: too few answers were graded for the confidence."""


@dataclass(frozen=True, slots=True)
class ConformalFloor:
    """Lowers each model's estimates to bounds that hold with a stated confidence."""

    margin: Float64[np.ndarray, " models"]
    """Infinite where too few answers were graded for that confidence."""
    confidence: float

    def lower(
        self, quality: Float[np.ndarray, "jobs models"]
    ) -> Float64[np.ndarray, "jobs models"]:
        """Return the bound that a graded score reaches with the stated confidence.

        It is never below 0, the least score there is; a bound of 0 promises nothing.
        """
        bound: Float64[np.ndarray, "jobs models"] = np.maximum(quality - self.margin, 0.0)
        return bound


def lower_quality(
    quality: Float[np.ndarray, "jobs models"],
    quality_std: Float[np.ndarray, "jobs models"],
    risk: float,
) -> Float32[np.ndarray, "jobs models"]:
    """Return a lower confidence bound of quality, to be selected on instead of the mean.

    Args:
        quality: Expected quality.
        quality_std: Standard deviation of the estimate itself, at least 0.
        risk: Standard deviations to stay on the safe side by; 0 changes nothing.

    Returns:
        quality - risk x quality_std, at least 0, in single precision.
    """
    lower = quality - np.float32(risk) * quality_std
    return np.maximum(lower, 0.0).astype(np.float32, copy=False)


def risk_of_confidence(confidence: float) -> float:
    """Return the standard deviations that a normal estimate exceeds with this probability.

    Args:
        confidence: From 0.5 up to but not 1; 0.95 gives 1.645.
    """
    return NormalDist().inv_cdf(confidence)


def quality_interval(
    quality: Float[np.ndarray, " jobs"], quality_std: Float[np.ndarray, " jobs"], confidence: float
) -> tuple[float, float]:
    """Return where the mean grade of the chosen answers will lie.

    Grades are taken to be right or wrong, with the estimates as probabilities, and errors to be
    independent between jobs: an error that all estimates share is not in the interval.

    Args:
        quality: Expected quality of the jobs' chosen models, in [0, 1].
        quality_std: Standard deviation of those estimates.
        confidence: Probability that the interval is to have, inside (0, 1).

    Returns:
        Lower and upper end, within [0, 1]; both 0 without jobs.
    """
    if len(quality) == 0:
        return 0.0, 0.0
    share = np.clip(np.asarray(quality, np.float64), 0.0, 1.0)
    variance = share * (1.0 - share) + np.asarray(quality_std, np.float64) ** 2
    half = risk_of_confidence(0.5 + confidence / 2) * float(np.sqrt(variance.sum())) / len(share)
    mean = float(share.mean())
    return max(0.0, mean - half), min(1.0, mean + half)


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


def _quantile(excess: Float64[np.ndarray, " answers"], confidence: float) -> float:
    """Return the ceil((n + 1) x confidence)-th smallest excess; infinite where n is too small."""
    rank = math.ceil((len(excess) + 1) * confidence)
    if rank > len(excess):
        return math.inf
    return float(np.partition(excess, rank - 1)[rank - 1])
