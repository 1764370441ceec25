"""Calls that the shared account lets start under an endpoint's limits per minute."""

from collections import deque
from dataclasses import dataclass

from routoo.limits.records import Correction, Grant
from routoo.limits.sliding_window import USE_WITHIN_S


@dataclass(slots=True)
class _RateGrant:
    """What is left of one grant."""

    bucket_no: int
    calls: int
    tokens: int
    expires_at_s: float


class RateGrants:
    """The grants that are not used up; each expires after half a second and is then given back."""

    def __init__(self) -> None:
        self._grants: deque[_RateGrant] = deque()
        self._corrections: dict[int, list[int]] = {}
        self.limited = False
        """Whether any limit per minute holds at the endpoint."""

    @property
    def calls(self) -> int:
        """Calls that may still start."""
        return sum(grant.calls for grant in self._grants)

    def add(self, grant: Grant, wanted_tokens: tuple[int, ...], asked_at_s: float) -> None:
        """Add the account's grant.

        Args:
            grant: For some of the wanted calls.
            wanted_tokens: Their estimated tokens, in order.
            asked_at_s: When it was asked for: the account can't have counted it earlier.
        """
        self.limited = grant.calls is not None
        if grant.calls:
            tokens = sum(wanted_tokens[: grant.calls])
            expires_at_s = asked_at_s + USE_WITHIN_S
            self._grants.append(_RateGrant(grant.bucket_no, grant.calls, tokens, expires_at_s))

    def take(self, tokens: int, now_s: float) -> int | None:
        """Use a grant for one call.

        Returns:
            The bucket that the call was counted in; None where no grant is left for it.
        """
        self._expire(now_s)
        for grant in self._grants:
            if grant.calls and grant.tokens >= tokens:
                grant.calls -= 1
                grant.tokens -= tokens
                return grant.bucket_no
        return None

    def correct(self, bucket_no: int, requests: int, tokens: int) -> None:
        """Note that a bucket's counts were too low by so much; negative: too high."""
        if requests or tokens:
            total = self._corrections.setdefault(bucket_no, [0, 0])
            total[0] += requests
            total[1] += tokens

    def take_corrections(self, now_s: float) -> tuple[Correction, ...]:
        """Return the corrections to report, and forget them."""
        self._expire(now_s)
        found = tuple(
            Correction(bucket_no, requests, tokens)
            for bucket_no, (requests, tokens) in self._corrections.items()
        )
        self._corrections = {}
        return found

    def _expire(self, now_s: float) -> None:
        while self._grants and self._grants[0].expires_at_s <= now_s:
            grant = self._grants.popleft()
            self.correct(grant.bucket_no, -grant.calls, -grant.tokens)
