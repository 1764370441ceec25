"""What the owner of a batch asks for beside its budget: the objective, and how calls are made."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from routoo.errors import InputError


@dataclass(frozen=True, slots=True)
class Objective:
    """What the selection optimises; with nothing set, the most quality that the budget buys.

    At most one of a mean quality, a model to match and a willingness to pay.
    """

    min_mean_quality: float | None = None
    """Mean predicted quality, in [0, 1], to be reached at the least cost."""
    match_model: str | None = None
    """Candidate model whose mean predicted quality is to be reached at the least cost."""
    match_ratio: float = 1.0
    """Share of that model's mean that is asked for, above 0."""
    willingness_to_pay_usd: float | None = None
    """USD that one more expected good answer is worth; dearer gains are left out."""
    risk: float = 0.0
    """Number of an estimate's standard deviations by which its quality is lowered."""
    floor_confidence: float | None = None
    """Share of jobs whose answer shall reach their quality floor; None compares the estimate."""

    def __post_init__(self) -> None:
        """Check that there is at most one goal."""
        aims = (self.min_mean_quality, self.match_model, self.willingness_to_pay_usd)
        if sum(aim is not None for aim in aims) > 1:
            raise InputError(
                "a batch has one aim: a mean quality, a model to match, or a willingness to pay",
                remedy="Keep one of them; a budget may stand beside each",
            )

    @property
    def goal(self) -> str:
        """The goal in words, without the budget."""
        if self.min_mean_quality is not None:
            return f"a mean quality of {self.min_mean_quality:g} at the least cost"
        if self.match_model is not None:
            share = f"{self.match_ratio:.4g} of {self.match_model}'s own mean quality"
            return f"{share} at the least cost"
        if self.willingness_to_pay_usd is not None:
            worth = f"${self.willingness_to_pay_usd:.4g}"
            return f"every good answer that costs less than {worth} more"
        return "the most quality"

    def as_json(self) -> dict[str, Any]:
        """Return the objective as the value of a JSON column."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self:
        """Return the objective that `as_json` wrote; None stands for one with nothing set."""
        return cls(**(value or {}))


class OnContentFilter(StrEnum):
    """What happens to a job whose call an endpoint's content filter refused."""

    FALLBACK = "fallback"
    """The next-best model is asked."""
    FAIL = "fail"
    """The job ends as failed; no other model is asked."""


class OnUnavailable(StrEnum):
    """What happens to a job while the endpoints of its model take no calls."""

    WAIT = "wait"
    """It waits as long as its deadline and patience allow, and then falls back."""
    FALLBACK = "fallback"
    """Another model is asked at once."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How the calls of a batch are made."""

    dedupe: bool | None = None
    """Identical requests with identical limits are called once, and share the answer; None merges
    only those whose one answer shall be the same each time, and no samples."""
    cache_ttl_s: float | None = None
    """Answers are taken from and kept in the response cache for so long; None means neither."""
    cache_all: bool = False
    """Cache also requests whose answers are sampled: no temperature of 0, no seed."""
    on_content_filter: OnContentFilter | None = None
    """None leaves it to what the pool says of each model."""
    on_unavailable: OnUnavailable = OnUnavailable.WAIT
    patience_s: float | None = None
    """Longest wait for a model's endpoints, in seconds; None means as long as the deadline allows,
    or 15 minutes without one."""
    max_completion_tokens: int | None = None
    """Limit of the answers to requests that name none; None derives it from predicted lengths."""
    cascade: bool = True
    """Whether a cheap model may be asked first and its answer judged, where that pays."""
    cascade_only: tuple[str, ...] | None = None
    """Names of the only models that may be asked first; None admits all that can be judged."""

    def as_json(self) -> dict[str, Any]:
        """Return the options as the value of a JSON column."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Self:
        """Return the options that `as_json` wrote; None stands for the defaults."""
        known = dict(value or {})
        if known.get("on_content_filter") is not None:
            known["on_content_filter"] = OnContentFilter(known["on_content_filter"])
        if known.get("cascade_only") is not None:
            known["cascade_only"] = tuple(known["cascade_only"])
        known["on_unavailable"] = OnUnavailable(known.get("on_unavailable") or OnUnavailable.WAIT)
        return cls(**known)
