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
