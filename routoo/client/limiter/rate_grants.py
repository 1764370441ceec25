"""Calls that may start under an endpoint's rates, as the shared account granted them."""

from collections import deque
from dataclasses import dataclass

from routoo.limits.records import Correction, Grant
from routoo.limits.window import USE_WITHIN_S


@dataclass(slots=True)
class _Slip:
    bucket_no: int
    calls: int
    tokens: int
    valid_until_s: float


class Credit:
    """What is left of the grants; each holds for half a second, then it is given back."""

    def __init__(self) -> None:
        self._slips: deque[_Slip] = deque()
        self._corrections: dict[int, list[int]] = {}
        self.limited = False
        """Whether any rate limits the endpoint."""

    @property
    def calls(self) -> int:
        """Calls that may still start."""
        return sum(slip.calls for slip in self._slips)

    def accept(self, grant: Grant, wanted_tokens: tuple[int, ...], asked_at_s: float) -> None:
        """Take in a grant.

        Args:
            grant: For some of the wanted calls.
            wanted_tokens: Their estimated tokens, in order.
            asked_at_s: When it was asked for: the account can't have counted it earlier.
        """
        self.limited = grant.calls is not None
        if grant.calls:
            tokens = sum(wanted_tokens[: grant.calls])
            until_s = asked_at_s + USE_WITHIN_S
            self._slips.append(_Slip(grant.bucket_no, grant.calls, tokens, until_s))

    def take(self, tokens: int, now_s: float) -> int | None:
        """Spend a call; return the bucket it was counted in, None where it can't start now."""
        self._expire(now_s)
        for slip in self._slips:
            if slip.calls and slip.tokens >= tokens:
                slip.calls -= 1
                slip.tokens -= tokens
                return slip.bucket_no
        return None

    def correct(self, bucket_no: int, requests: int, tokens: int) -> None:
        """Note that something counted in a bucket turned out otherwise."""
        if requests or tokens:
            total = self._corrections.setdefault(bucket_no, [0, 0])
            total[0] += requests
            total[1] += tokens

    def corrections(self, now_s: float) -> tuple[Correction, ...]:
        """Return what is to be reported, once."""
        self._expire(now_s)
        found = tuple(
            Correction(bucket_no, requests, tokens)
            for bucket_no, (requests, tokens) in self._corrections.items()
        )
        self._corrections = {}
        return found

    def _expire(self, now_s: float) -> None:
        while self._slips and self._slips[0].valid_until_s <= now_s:
            slip = self._slips.popleft()
            self.correct(slip.bucket_no, -slip.calls, -slip.tokens)
