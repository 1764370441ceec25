"""Calls whose money is reserved and that may not be sent yet.

A call is sent only after a commit has marked it as sent. So after a crash the money of a call
without that mark is surely not spent and comes back, while that of all others counts as spent.
Calls that may start while the next commit is awaited are marked by it ahead, so that no slot waits
for one.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from routoo.domain.completion import Reservation

CallKey = tuple[int, int]
"""Job number and attempt number of a call."""


@dataclass(slots=True)
class _Call:
    starts_soon: Callable[[], bool]
    marked: "asyncio.Future[None]"
    is_reserved: bool = False
    is_awaited: bool = False
    """Whether it has a slot and waits to be sent."""

    def end_wait(self, error: BaseException | None = None) -> None:
        if self.marked.done():
            return
        if error is None:
            self.marked.set_result(None)
        elif self.is_awaited:
            self.marked.set_exception(error)


@dataclass(slots=True)
class UnsentCalls:
    """The calls of one shard that are reserved, or about to be, and not marked as sent."""

    _calls: dict[CallKey, _Call] = field(default_factory=dict)

    def add(self, key: CallKey, starts_soon: Callable[[], bool]) -> None:
        """Hold a call back; `starts_soon` says whether it may start during the next commit."""
        marked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls[key] = _Call(starts_soon, marked)

    def drop(self, key: CallKey) -> None:
        """Forget a call that will not be sent."""
        self._calls.pop(key, None)

    def request(self, key: CallKey) -> "asyncio.Future[None] | None":
        """Have the next commit mark a call; None where it is marked already."""
        call = self._calls.get(key)
        if call is None:
            return None
        call.is_awaited = True
        return call.marked

    def due(self) -> list[CallKey]:
        """Return the reserved calls that the next commit shall mark."""
        return [
            key
            for key, call in self._calls.items()
            if call.is_reserved and (call.is_awaited or call.starts_soon())
        ]

    def as_sent(self, wanted: Reservation) -> Reservation:
        """Return a reservation, marked as sent if the call may start while it is committed."""
        call = self._calls.get((wanted.job_no, wanted.attempt_no))
        return wanted if call is None or call.starts_soon() else replace(wanted, sent=False)

    def note_reserved(self, reserved: Sequence[Reservation], granted: Sequence[bool]) -> None:
        """Note which reservations a commit has written; those not granted are forgotten."""
        for reservation, yes in zip(reserved, granted, strict=True):
            key = reservation.job_no, reservation.attempt_no
            if not yes:
                self.drop(key)
            elif reservation.sent:
                self.note_marked([key])
            elif key in self._calls:
                self._calls[key].is_reserved = True

    def note_marked(self, keys: Sequence[CallKey]) -> None:
        """Let calls be sent: a commit has marked them."""
        for key in keys:
            call = self._calls.pop(key, None)
            if call is not None:
                call.end_wait()

    def fail(self, error: BaseException) -> None:
        """Raise an error in all that wait for a mark."""
        for call in self._calls.values():
            call.end_wait(error)
