"""What is expected of candidate models: predictions, assignments, and experience of past calls."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictor's estimates for some prompts, with the models in pool order."""

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

    def rows(self, some: Int[np.ndarray, " some"]) -> "Predictions":
        """Return the estimates for some of the prompts, in the order given."""
        return Predictions(*(getattr(self, field.name)[some] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Assignment:
    """The model chosen for a job, and what was expected of it."""

    job_no: int
    model: str
    expected_quality: float
    expected_cost_usd: Decimal
    """Of the call; of a probe, with its second call times the probability of one."""
    probe: bool = False
    """The answer is judged when it comes; then it is accepted, or another model is asked."""
    escalation_chance: float = 0.0
    """Probability that another model is asked after the probe."""


@dataclass(frozen=True, slots=True)
class ModelExperience:
    """What past calls show about one candidate model; the defaults stand for no calls at all."""

    calls: int = 0
    """Measured calls that this rests on."""
    prompt_factor: float = 1.0
    """Prompt tokens billed for one that was estimated."""
    completion_factor: float = 1.0
    """Completion tokens billed for one that was predicted."""
    base_s: float | None = None
    """What every call takes, in seconds; None where neither measured nor declared."""
    per_completion_token_s: float | None = None
    """What each completion token adds, in seconds."""
    tail_factor: float = 1.0
    """Mean latency over the typical one, at least 1: slow calls occupy a slot for long."""
    latency_p95_s: float | None = None
    """Latency that one call in twenty exceeds, in seconds; None where too few were measured."""
    quality_margin: float = 0.0
    """Taken off predicted quality before a floor is compared, so that it holds with confidence."""
    failure_share: float = 0.0
    """Share of the batch's calls that fail."""
    unanswered_share: float = 0.0
    """Share of the jobs given to it that go on without its answer, after all retries."""
    failed_usd: float = 0.0
    """What failed calls are billed for each job given to it, in USD."""


Experience = Mapping[str, ModelExperience]
"""By the name of the candidate model; one that is missing is unknown."""

NO_EXPERIENCE = ModelExperience()


def experience_to_json(experience: Experience) -> dict[str, Any]:
    """Return experience as the JSON value that a plan stores."""
    return {name: asdict(model) for name, model in experience.items()}


def experience_from_json(values: Mapping[str, Any] | None) -> dict[str, ModelExperience]:
    """Return the experience that a plan was made with; empty for a plan that stored none."""
    return {name: ModelExperience(**model) for name, model in (values or {}).items()}
