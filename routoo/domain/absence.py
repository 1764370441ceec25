"""Endpoints that take no calls for now, and how long a job waits for them."""

import math
from dataclasses import dataclass
from enum import StrEnum

from routoo.domain.batch_options import OnUnavailable

DEFAULT_PATIENCE_S = 900.0
"""How long a job without a deadline waits for its model, in seconds."""
SHORT_WAIT_S = 10.0
"""A pause up to this is waited for even by jobs that rather fall back, in seconds."""
_LONG_OUTAGE_S = 5.0
"""An outage or a denial that lasts longer is not waited for by a worker, in seconds."""
_MOST_RESERVE_S = 60.0
_RESERVE_SHARE = 0.2


class AbsenceReason(StrEnum):
    """Why the endpoints of a model take no calls; each is a `DeviationReason` too."""

    UNAVAILABLE = "unavailable"
    """They keep failing."""
    RATE_LIMITED = "rate_limited"
    """They asked for a pause."""
    DENIED = "denied"
    """They take no requests of ours: a wrong key, or no credit."""


@dataclass(frozen=True, slots=True)
class Absence:
    """The endpoints of a model take no calls for now."""

    reason: AbsenceReason
    lasted_s: float
    """For how long, in seconds; 0 for a pause."""
    rest_s: float | None = None
    """How long a pause still takes, in seconds; None where nobody knows."""
    message: str = ""
    """What an endpoint said."""

    @property
    def is_long(self) -> bool:
        """Whether it is worth giving a worker back meanwhile."""
        return self.lasted_s > _LONG_OUTAGE_S or (self.rest_s or 0.0) > SHORT_WAIT_S


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a job waits for a model before it falls back."""

    on_unavailable: OnUnavailable = OnUnavailable.WAIT
    patience_s: float | None = None
    """Longest wait, in seconds; None means as long as the deadline allows, or 15 minutes."""

    def waits(self, absence: Absence, left_s: float | None, *, has_other: bool) -> bool:
        """Return whether a job waits on.

        Of the time until a deadline it leaves a fifth, at most a minute, for another model.

        Args:
            absence: Of the model that the job is to be answered by.
            left_s: Seconds until the job's deadline; None without one.
            has_other: Whether another model may answer it.
        """
        rest_s = absence.rest_s or 0.0
        if self.on_unavailable is OnUnavailable.FALLBACK and has_other:
            return absence.rest_s is not None and rest_s <= SHORT_WAIT_S
        if left_s is not None and has_other:
            reserve_s = _reserve_s(absence, left_s)
            if rest_s > left_s - reserve_s or left_s <= reserve_s:
                return False
        return (rest_s or absence.lasted_s) <= self._longest_s(left_s)

    def ends_s(self, absence: Absence, left_s: float | None, *, has_other: bool) -> float:
        """Return after how many seconds a job that waits has something else to do, at most.

        Args:
            absence: As for `waits`, which is true.
            left_s: As for `waits`.
            has_other: As for `waits`.
        """
        ends_s = absence.rest_s or self._longest_s(left_s) - absence.lasted_s
        if left_s is not None:
            kept_s = _reserve_s(absence, left_s) if has_other else 0.0
            ends_s = min(ends_s, left_s - kept_s)
        return max(0.0, ends_s)

    def limits_s(self, lasted_s: float, left_s: float | None, *, has_other: bool) -> float:
        """Return how long a job goes on asking a model that has answered with rate limits alone.

        Args:
            lasted_s: For how long it has, in seconds.
            left_s: As for `waits`.
            has_other: As for `waits`.
        """
        if self.on_unavailable is OnUnavailable.FALLBACK and has_other:
            return SHORT_WAIT_S - lasted_s
        limited = Absence(AbsenceReason.RATE_LIMITED, lasted_s)
        return self.ends_s(limited, left_s, has_other=has_other)

    def _longest_s(self, left_s: float | None) -> float:
        default_s = DEFAULT_PATIENCE_S if left_s is None else math.inf
        return default_s if self.patience_s is None else self.patience_s


def _reserve_s(absence: Absence, left_s: float) -> float:
    """Return the time before a deadline that is left for another model, in seconds."""
    return min(_MOST_RESERVE_S, _RESERVE_SHARE * (left_s + absence.lasted_s))
