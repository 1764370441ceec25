"""What calls that were made teach about those to come."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelExperience:
    """What is known of one candidate model at its endpoint; the defaults say that nothing is."""

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
    """Mean latency over the typical one, at least 1: slow calls hold a place for long."""
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

UNKNOWN = ModelExperience()


def to_json(experience: Experience) -> dict[str, Any]:
    """Return experience as a plan keeps it."""
    return {name: asdict(model) for name, model in experience.items()}


def of_json(values: Mapping[str, Any] | None) -> dict[str, ModelExperience]:
    """Return the experience that a plan was made with; a plan without any knew nothing."""
    return {name: ModelExperience(**model) for name, model in (values or {}).items()}
