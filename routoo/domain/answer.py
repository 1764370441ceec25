"""Defines answers as a judge reads them, and what was decided about one."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True, slots=True)
class AnswerJudgement:
    """The decision about an answer that was judged, or that broke a rule of its job."""

    job_no: int
    attempt_no: int
    """The call that it answered."""
    decision: str
    """accepted or escalated."""
    before: float | None = None
    """Probability that its model is right, by the prompt alone."""
    after: float | None = None
    """Probability that the answer is good; None where none was estimated."""
    threshold: float | None = None
    """Value of the best other model, its quality less its price; None where there is none."""
    price_per_usd: float | None = None
    """Quality that a dollar had to buy."""
    next_model: str | None = None
    """The model that was to be asked next."""
    fault: str | None = None
    """Which rule it breaks, and how."""


@dataclass(frozen=True, slots=True)
class TokenProbabilities:
    """A summary of the log-probabilities that a model gave the tokens of its own answer."""

    mean: float
    minimum: float
    quantile_05: float
    quantile_25: float
    median: float
    margin: float
    """How far the decisive token lies above the next likely one, in log-probability; NaN where
    the endpoint names no alternatives."""

    def values(self) -> Float32[np.ndarray, " figures"]:
        """Return the figures in their order."""
        return np.array([getattr(self, field.name) for field in fields(self)], np.float32)


TOKEN_FIGURES = tuple(field.name for field in fields(TokenProbabilities))


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """One model's answer to one item."""

    item_id: str
    model: str
    text: str
    """Empty where it answered nothing."""
    finish_reason: str | None = None
    """Why it ended, as the provider said; None where not known."""
    token_probabilities: TokenProbabilities | None = None
