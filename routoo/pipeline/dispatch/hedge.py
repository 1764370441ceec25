"""Hedging: a second call for a job whose first one is slow; whichever answers first wins.

Source: Dean and Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013: a second
request after the 95th percentile adds about 5 % of calls and takes most of the tail away.
"""

import asyncio
import statistics
from collections import defaultdict, deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from routoo.domain.completion import Completion
from routoo.domain.job import PendingJob
from routoo.domain.pool import CandidateModel
from routoo.errors import EndpointError

Answer = Completion | EndpointError
"""What a call brought; a completion that a content filter cut is one."""
_RECENT_CALLS = 200
_FEWEST_CALLS = 20
"""Fewer say nothing of a 95th percentile."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long calls take, by model: those of this shard, and before them what is known."""

    known_p95_s: Mapping[str, float] = field(default_factory=dict)
    _recent_s: dict[str, deque[float]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=_RECENT_CALLS))
    )

    def note(self, model: CandidateModel, latency_s: float) -> None:
        """Take the latency of an answer."""
        self._recent_s[model.name].append(latency_s)

    def hedge_after_s(self, pending: PendingJob, model: CandidateModel) -> float | None:
        """Return when a call is slow enough for a second one; None where it never is.

        Only jobs with a latency limit are hedged, and only while there is time for the second.
        """
        limit_s = pending.job.sla.max_latency_s
        if limit_s is None:
            return None
        recent_s = self._recent_s[model.name]
        if len(recent_s) >= _FEWEST_CALLS:
            p95_s: float | None = statistics.quantiles(recent_s, n=20)[-1]
        else:
            p95_s = self.known_p95_s.get(model.name)
        return p95_s if p95_s is not None and p95_s < limit_s else None


@dataclass(slots=True)
class Call:
    """One of the calls that may be made for a job at the same time."""

    attempt_no: int
    worst_case_usd: Decimal
    model: CandidateModel | None = None
    """The model asked, where it is placed; None until the call is sent."""
    answer: Answer | None = None
    """None where the call was not awaited to its end."""


async def race(
    first: Coroutine[None, None, Answer], second: Coroutine[None, None, None], hedge: Call
) -> Answer | None:
    """Await a call and its hedge until one of them brings a completion, or both have failed.

    Args:
        first: The call that was sent.
        second: Waits, and then sends the hedge if it may; fills the hedge in.
        hedge: What the second call fills in.

    Returns:
        What the first call brought; None where the hedge won and it was cancelled.
    """
    tasks = (asyncio.create_task(first), asyncio.create_task(second))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not _is_decided(tasks[0], hedge):
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for result in ended:
        if isinstance(result, Exception):
            raise result
    return tasks[0].result() if not tasks[0].cancelled() else None


def _is_decided(first: asyncio.Task[Answer], hedge: Call) -> bool:
    """Return whether waiting on can bring nothing better than what is there."""
    if isinstance(hedge.answer, Completion):
        return True
    # A first call that failed before its hedge was sent is retried the usual way.
    return first.done() and (isinstance(first.result(), Completion) or hedge.model is None)
