"""Ends this process with SIGKILL at a point that an environment variable names.

`ROUTOO_CRASH_AT="before GroupCommit._commit 2"`: before the second commit of that function;
`after` instead of `before`: when the commit is acknowledged. Points are named by the function that
opened the transaction, or `publish` and `ack` for messages. The points that a process reaches are
counted, so that a test can walk through all of them.
"""

import contextlib
import functools
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, Self

from psycopg import AsyncConnection

from routoo.store.database import Database

VARIABLE = "ROUTOO_CRASH_AT"


@dataclass(frozen=True, order=True)
class CrashPoint:
    """Where a process ends."""

    side: str
    """before or after."""
    name: str
    number: int
    """Which time that the process gets there, from 1."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the variable's value."""
        side, name, number = text.split()
        return cls(side, name, int(number))

    def __str__(self) -> str:
        """Return the variable's value."""
        return f"{self.side} {self.name} {self.number}"


class CrashPoints:
    """Counts the points that this process reaches, and ends it at one of them."""

    def __init__(self, at: CrashPoint | None) -> None:
        self._at = at
        self.seen: Counter[tuple[str, str]] = Counter()

    def reach(self, side: str, name: str) -> None:
        """Note a point; does not return where the process is to end there."""
        self.seen[side, name] += 1
        if CrashPoint(side, name, self.seen[side, name]) == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    def points(self, most: int) -> list[CrashPoint]:
        """Return what was reached: of each name the first times, as many as `most`."""
        return sorted(
            CrashPoint(side, name, number)
            for (side, name), times in self.seen.items()
            for number in range(1, min(times, most) + 1)
        )

    def watch_commits(self) -> None:
        """Have every transaction of this process pass through here."""
        opened = Database.transaction

        @contextlib.asynccontextmanager
        async def transaction(
            db: Database, *, pipelined: bool = False
        ) -> AsyncIterator[AsyncConnection]:
            name = _opener(sys._getframe(1))
            async with opened(db, pipelined=pipelined) as conn:
                yield conn
                self.reach("before", name)
            self.reach("after", name)

        Database.transaction = transaction  # type: ignore[method-assign]

    def watch(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function with a point before and one after it."""

        @functools.wraps(call)
        def watched(*args: Any, **options: Any) -> Any:
            self.reach("before", name)
            result = call(*args, **options)
            self.reach("after", name)
            return result

        return watched


def _opener(frame: FrameType | None) -> str:
    """Return the function that opened a transaction, seen from the generator that holds it."""
    while frame is not None and "contextlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return "unknown" if frame is None else frame.f_code.co_qualname.removesuffix(".<locals>")


def install_from_environment() -> None:
    """Watch this process's commits, messages and acknowledgements, if the variable is set."""
    text = os.environ.get(VARIABLE)
    if not text:
        return
    import kombu.message  # only worker processes have a broker

    import worker.runtime
    import worker.tasks

    points = CrashPoints(CrashPoint.parse(text))
    points.watch_commits()
    for module in (worker.tasks, worker.runtime):
        module.publish = points.watch("publish", module.publish)
    ack = kombu.message.Message.ack
    kombu.message.Message.ack = points.watch("ack", ack)
