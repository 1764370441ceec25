"""How the calls of a batch are made, beyond whom they go to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


class OnContentFilter(StrEnum):
    """What follows a refusal by an endpoint's content filter."""

    FALLBACK = "fallback"
    """The next-best model is asked."""
    FAIL = "fail"
    """The job ends as failed; no other model is asked."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Options of a batch's calls."""

    dedupe: bool = True
    """Identical requests with identical limits are called once, and share the answer."""
    cache_ttl_s: float | None = None
    """Answers are taken from and kept in the response cache for so long; None means neither."""
    cache_all: bool = False
    """Cache requests too that ask for chance: no temperature of 0, no seed."""
    on_content_filter: OnContentFilter | None = None
    """None leaves it to what the pool says of each model."""

    def as_json(self) -> dict[str, Any]:
        """Return the options as JSON keeps them."""
        return asdict(self)

    @classmethod
    def of_json(cls, value: Mapping[str, Any] | None) -> Self:
        """Return what `as_json` gave; None stands for the defaults."""
        known = dict(value or {})
        if known.get("on_content_filter") is not None:
            known["on_content_filter"] = OnContentFilter(known["on_content_filter"])
        return cls(**known)
