"""Measures what the guarantees of dispatch cost, beside the same code with them stubbed.

`routoo` is dispatch as it ships. `unmarked` sends a call as soon as its money is reserved, without
a commit that marks it as sent. `unguarded` has no fence, no ledger and no attempts: it saves the
results alone, in the same group commits. All have the limits that dispatchers share. Each turn is a
process of its own on one core; the endpoint (50 ms, small bodies) and PostgreSQL share another.
Variants take turns; the median of each counts.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from dispatch import database, environ
from dispatch_batch import SHARD_SIZE, dispatch_all, pool_of, prepare
from figures import Figure, show
from servers import endpoint_server

import routoo.pipeline.dispatch.shard as dispatching
from routoo.domain.completion import Attempt, Reservation, Result
from routoo.pipeline.dispatch.group_commit import GroupCommit
from routoo.pipeline.dispatch.pending_writes import PendingWrites, ReservationStatus
from routoo.store import results

LATENCY_S = 0.05
"""Of the endpoint."""


class Unmarked(GroupCommit):
    """Lets a call be sent as soon as its money is reserved."""

    async def reserve(
        self, reservation: Reservation, starts_soon: Callable[[], bool] | None = None
    ) -> ReservationStatus:
        """Reserve the call as sent, whenever it starts."""
        del starts_soon
        return await super().reserve(reservation)


class Unguarded(GroupCommit):
    """Saves results alone."""

    async def reserve(
        self, reservation: Reservation, starts_soon: Callable[[], bool] | None = None
    ) -> ReservationStatus:
        """Grant it: there is no ledger."""
        del reservation, starts_soon
        return ReservationStatus.GRANTED

    def release(self, job_no: int, attempt_no: int) -> None:
        """Do nothing: nothing was reserved."""

    def settle(self, attempt: Attempt, result: Result | None = None) -> None:
        """Record the result alone."""
        del attempt
        if result is not None:
            self.record(result)

    async def _commit(self, writes: PendingWrites) -> Sequence[ReservationStatus]:
        async with self._db.transaction() as conn:
            await results.save(conn, self._lease, writes.results, fenced=True, alone=self._alone)
        return []


VARIANTS = {"routoo": GroupCommit, "unmarked": Unmarked, "unguarded": Unguarded}


def main() -> None:
    """Measure and print; with `--variant`, dispatch one prepared batch."""
    options = _options()
    if options.variant:
        os.sched_setaffinity(0, {0})
        _dispatch(options.variant, json.loads(options.request))
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # inherited by the servers
    with endpoint_server(LATENCY_S) as base_url, database() as url:
        show(_figures(base_url, url, options), as_json=options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="of a turn")
    parser.add_argument("--concurrency", type=int, default=1_000, help="calls in flight")
    parser.add_argument("--turns", type=int, default=3, help="the median of each variant is taken")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--request", help=argparse.SUPPRESS)
    return parser.parse_args()


def _dispatch(variant: str, request: dict[str, Any]) -> None:
    import uvloop

    dispatching.GroupCommit = VARIANTS[variant]  # type: ignore[attr-defined]
    taken = uvloop.run(
        dispatch_all(request["url"], request["batch_id"], request["shards"], limited=True)
    )
    print(json.dumps(asdict(taken)))


def _figures(base_url: str, url: str, options: argparse.Namespace) -> Iterator[Figure]:
    turns: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    for _ in range(options.turns):
        for variant, found in turns.items():
            found.append(_turn(variant, base_url, url, options))
    rate, cpu_ms = {}, {}
    for variant, found in turns.items():
        rate[variant] = options.calls / statistics.median(turn["wall_s"] for turn in found)
        cpu_ms[variant] = statistics.median(turn["cpu_s"] for turn in found) * 1000 / options.calls
    for variant in VARIANTS:
        yield Figure(f"dispatch_{variant}_jobs", rate[variant], "jobs/s")
        yield Figure(f"dispatch_{variant}_cpu", cpu_ms[variant], "ms/call")
    for variant in ("unmarked", "unguarded"):
        ratio = rate["routoo"] / rate[variant]
        yield Figure(f"dispatch_vs_{variant}", rate["routoo"], "jobs/s", rate[variant], ratio)


def _turn(variant: str, base_url: str, url: str, options: argparse.Namespace) -> dict[str, Any]:
    pool = pool_of(base_url, options.concurrency, limited=True)
    batch_id = asyncio.run(prepare(url, pool, options.calls))
    request = {"url": url, "batch_id": str(batch_id), "shards": -(-options.calls // SHARD_SIZE)}
    done = subprocess.run(
        [sys.executable, __file__, "--variant", variant, "--request", json.dumps(request)],
        stdout=subprocess.PIPE, text=True, check=True, env=environ(),
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert len(found["latencies_s"]) == options.calls, "a call was lost"
    return found


if __name__ == "__main__":
    main()
