"""Choosing on what is likely rather than on what is expected."""

from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Float32


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
