"""Defines answers as a judge reads them: text, why it ended, how probable its tokens were."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float32


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
