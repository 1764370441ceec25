"""Estimates and decisions over jobs x candidate models."""

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from jaxtyping import Bool, Float32


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the predictor says of some prompts, models in pool order."""

    quality: Float32[np.ndarray, "jobs models"]
    """Calibrated probability of an acceptable answer, or expected score, in [0, 1]."""
    quality_std: Float32[np.ndarray, "jobs models"]
    """Standard deviation of the quality estimate itself, at least 0."""
    completion_tokens: Float32[np.ndarray, "jobs models"]
    """Expected length of the answer, in tokens."""
    novelty: Float32[np.ndarray, " jobs"]
    """Distance from the training prompts, 0 (seen alike) to 1 (nothing alike)."""
    truncated: Bool[np.ndarray, " jobs"]
    """The prompt was longer than the backbone's window and was scored on its head and tail."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The model chosen for a job, and what was expected of it."""

    job_no: int
    model: str
    expected_quality: float
    expected_cost_usd: Decimal
