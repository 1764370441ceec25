"""Defines what was decided about an answer: accepted, or another model was asked."""

from dataclasses import dataclass


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
